package main

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

type attribute struct {
	DataType    string  `json:"DataType"`
	StringValue *string `json:"StringValue,omitempty"`
	BinaryValue *string `json:"BinaryValue,omitempty"`
}

type message struct {
	id, body, digest   string
	attributes, system map[string]attribute
	sent, first        int64
	count              int
	visibleAt          time.Time
}

// What a bench asks about a queue; moments in microseconds since the epoch.
type stats struct {
	Sent, Received, Redelivered, Deleted, DeletedTwice int64
	ReceiveCalls, EmptyReceives, DeleteCalls           int64
	FirstReceive, LastDelete                           int64
}

type queue struct {
	mu         sync.Mutex
	name       string
	given      map[string]string
	visibility int
	ready      []*message
	head       int
	hidden     map[string]*message
	waiting    []chan struct{}
	counted    stats
}

var ids int64

func newID() string {
	n := atomic.AddInt64(&ids, 1)
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(n), n)
}

func newQueue(name string, given map[string]string) *queue {
	visibility, err := strconv.Atoi(given["VisibilityTimeout"])
	if err != nil {
		visibility = 30
	}
	return &queue{name: name, given: given, visibility: visibility, hidden: map[string]*message{}}
}

func (q *queue) attributes() map[string]string {
	q.mu.Lock()
	defer q.mu.Unlock()
	told := map[string]string{
		"ApproximateNumberOfMessages":           fmt.Sprint(len(q.ready) - q.head),
		"ApproximateNumberOfMessagesNotVisible": fmt.Sprint(len(q.hidden)),
		"ApproximateNumberOfMessagesDelayed":    "0",
		"QueueArn":                              "arn:aws:sqs:us-east-1:000000000000:" + q.name,
	}
	for name, value := range q.given {
		told[name] = value
	}
	return told
}

func (q *queue) told() object {
	q.mu.Lock()
	defer q.mu.Unlock()
	return object{"counted": q.counted, "ready": len(q.ready) - q.head, "hidden": len(q.hidden)}
}

func (q *queue) count(change func(*stats)) {
	q.mu.Lock()
	change(&q.counted)
	q.mu.Unlock()
}

// push makes a message visible and wakes one poll.
func (q *queue) push(m *message) {
	q.ready = append(q.ready, m)
	if len(q.waiting) > 0 {
		close(q.waiting[0])
		q.waiting = q.waiting[1:]
	}
}

func (q *queue) reap(now time.Time) {
	q.mu.Lock()
	for handle, m := range q.hidden {
		if m.visibleAt.Before(now) {
			delete(q.hidden, handle)
			q.push(m)
		}
	}
	q.mu.Unlock()
}

func (q *queue) send(e *entry) object {
	digest := md5.Sum([]byte(e.MessageBody))
	m := &message{
		id: newID(), body: e.MessageBody, digest: hex.EncodeToString(digest[:]),
		attributes: e.MessageAttributes, system: e.MessageSystemAttributes,
		sent: time.Now().UnixMilli(),
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counted.Sent++
	if e.DelaySeconds > 0 {
		m.visibleAt = time.Now().Add(time.Duration(e.DelaySeconds) * time.Second)
		q.hidden[newID()] = m
	} else {
		q.push(m)
	}
	return object{"MessageId": m.id, "MD5OfMessageBody": m.digest}
}

func (q *queue) remove(e *entry) object {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ours := q.hidden[e.ReceiptHandle]; ours {
		delete(q.hidden, e.ReceiptHandle)
		q.counted.Deleted++
		q.counted.LastDelete = time.Now().UnixMicro()
	} else {
		q.counted.DeletedTwice++
	}
	return object{}
}

func (q *queue) hide(e *entry) object {
	q.mu.Lock()
	defer q.mu.Unlock()
	m, ours := q.hidden[e.ReceiptHandle]
	if ours && e.VisibilityTimeout != nil {
		m.visibleAt = time.Now().Add(time.Duration(*e.VisibilityTimeout) * time.Second)
		if *e.VisibilityTimeout == 0 {
			delete(q.hidden, e.ReceiptHandle)
			q.push(m)
		}
	}
	return object{}
}

func (q *queue) receive(asked *request, ended context.Context) object {
	most, visibility, wait := max(asked.MaxNumberOfMessages, 1), q.visibility, 0
	if asked.VisibilityTimeout != nil {
		visibility = *asked.VisibilityTimeout
	}
	if asked.WaitTimeSeconds != nil {
		wait = *asked.WaitTimeSeconds
	}
	until := time.Now().Add(time.Duration(wait) * time.Second)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counted.ReceiveCalls++
	taken := q.take(asked, most, visibility)
	for len(taken) == 0 && time.Now().Before(until) && q.wake(ended, time.Until(until)) {
		taken = q.take(asked, most, visibility)
	}
	if len(taken) == 0 {
		q.counted.EmptyReceives++
		return object{}
	}
	return object{"Messages": taken}
}

// wake waits, unlocked, until there may be a message; false if the client has left.
func (q *queue) wake(ended context.Context, left time.Duration) bool {
	mine := make(chan struct{})
	q.waiting = append(q.waiting, mine)
	q.mu.Unlock()
	timer := time.NewTimer(left)
	stays := true
	select {
	case <-mine:
	case <-timer.C:
	case <-ended.Done():
		stays = false
	}
	timer.Stop()
	q.mu.Lock()
	for i, one := range q.waiting {
		if one == mine {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return stays
		}
	}
	if !stays && len(q.waiting) > 0 { // the wake-up was for one who has left: pass it on
		close(q.waiting[0])
		q.waiting = q.waiting[1:]
	}
	return stays
}

func (q *queue) take(asked *request, most, visibility int) []object {
	now := time.Now()
	taken := make([]object, 0, most)
	for len(taken) < most && q.head < len(q.ready) {
		m := q.ready[q.head]
		q.ready[q.head] = nil
		q.head++
		m.count++
		if m.count > 1 {
			q.counted.Redelivered++
		} else {
			m.first = now.UnixMilli()
		}
		handle := newID() + "-" + m.id
		m.visibleAt = now.Add(time.Duration(visibility) * time.Second)
		q.hidden[handle] = m
		q.counted.Received++
		taken = append(taken, m.told(asked, handle))
	}
	if q.head == len(q.ready) {
		q.ready, q.head = q.ready[:0], 0
	}
	if len(taken) > 0 && q.counted.FirstReceive == 0 {
		q.counted.FirstReceive = now.UnixMicro()
	}
	return taken
}

func (m *message) told(asked *request, handle string) object {
	told := object{"MessageId": m.id, "ReceiptHandle": handle, "MD5OfBody": m.digest, "Body": m.body}
	if names := append(asked.AttributeNames, asked.MessageSystemAttributeNames...); len(names) > 0 {
		every := map[string]string{
			"ApproximateReceiveCount":          strconv.Itoa(m.count),
			"SentTimestamp":                    strconv.FormatInt(m.sent, 10),
			"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.first, 10),
		}
		if header, given := m.system["AWSTraceHeader"]; given && header.StringValue != nil {
			every["AWSTraceHeader"] = *header.StringValue
		}
		system := object{}
		for name, value := range every {
			if wanted(names, name) {
				system[name] = value
			}
		}
		told["Attributes"] = system
	}
	own := object{}
	for name, value := range m.attributes {
		if wanted(asked.MessageAttributeNames, name) {
			own[name] = value
		}
	}
	if len(own) > 0 {
		told["MessageAttributes"] = own
	}
	return told
}

func wanted(names []string, name string) bool {
	for _, one := range names {
		if one == "All" || one == ".*" || one == name {
			return true
		}
	}
	return false
}
