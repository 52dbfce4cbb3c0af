// An SQS that is fast enough not to be what a bench measures: standard queues in memory, the AWS
// JSON protocol, long polls, visibility, batches. It counts at /stats what was lost or doubled.
//
// It checks no signature and knows no FIFO, no DLQ and no limits: it is for benches alone.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

type object = map[string]any

// One entry of a batch, or what a single call has of one.
type entry struct {
	Id                      string
	MessageBody             string
	DelaySeconds            int
	MessageAttributes       map[string]attribute
	MessageSystemAttributes map[string]attribute
	ReceiptHandle           string
	VisibilityTimeout       *int
}

type request struct {
	entry
	QueueUrl, QueueName                         string
	Entries                                     []entry
	MaxNumberOfMessages                         int
	WaitTimeSeconds                             *int
	AttributeNames, MessageSystemAttributeNames []string
	MessageAttributeNames                       []string
	Attributes                                  map[string]string
}

type broker struct {
	mu     sync.Mutex
	queues map[string]*queue
	base   string
	delay  time.Duration
}

func (b *broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/stats" {
		b.stats(w)
		return
	}
	body, _ := io.ReadAll(r.Body)
	var asked request
	if err := json.Unmarshal(body, &asked); err != nil {
		fail(w, "InvalidParameterValue", err.Error())
		return
	}
	target := r.Header.Get("X-Amz-Target")
	action := target[strings.IndexByte(target, '.')+1:]
	if b.delay > 0 {
		time.Sleep(b.delay)
	}
	q := b.queue(action, &asked)
	if q == nil {
		fail(w, "QueueDoesNotExist", "The specified queue does not exist.")
		return
	}
	answer := b.answer(q, action, &asked, r)
	if answer == nil {
		fail(w, "UnsupportedOperation", action)
		return
	}
	said, _ := json.Marshal(answer)
	w.Header()["Content-Type"] = []string{"application/x-amz-json-1.0"}
	w.Header()["X-Amzn-Requestid"] = []string{newID()}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(said))}
	w.Write(said)
}

// queue returns the queue that a request is about, made if it asks for that.
func (b *broker) queue(action string, asked *request) *queue {
	name := asked.QueueName
	if asked.QueueUrl != "" {
		name = asked.QueueUrl[strings.LastIndexByte(asked.QueueUrl, '/')+1:]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil && action == "CreateQueue" {
		q = newQueue(name, asked.Attributes)
		b.queues[name] = q
	}
	return q
}

func (b *broker) answer(q *queue, action string, asked *request, r *http.Request) object {
	entries := asked.Entries
	if !strings.HasSuffix(action, "Batch") {
		entries = []entry{asked.entry}
	}
	switch action {
	case "CreateQueue", "GetQueueUrl":
		return object{"QueueUrl": b.base + "/000000000000/" + q.name}
	case "GetQueueAttributes":
		return object{"Attributes": q.attributes()}
	case "SetQueueAttributes":
		return object{}
	case "SendMessage":
		return q.send(&entries[0])
	case "SendMessageBatch":
		return each(entries, q.send)
	case "DeleteMessage", "DeleteMessageBatch":
		q.count(func(s *stats) { s.DeleteCalls++ })
		return unbatched(action, each(entries, q.remove))
	case "ChangeMessageVisibility", "ChangeMessageVisibilityBatch":
		return unbatched(action, each(entries, q.hide))
	case "ReceiveMessage":
		return q.receive(asked, r.Context())
	}
	return nil
}

// each makes the answer of a batch; nothing fails here.
func each(entries []entry, do func(*entry) object) object {
	done := make([]object, 0, len(entries))
	for i := range entries {
		one := do(&entries[i])
		one["Id"] = entries[i].Id
		done = append(done, one)
	}
	return object{"Successful": done, "Failed": []object{}}
}

func unbatched(action string, answer object) object {
	if strings.HasSuffix(action, "Batch") {
		return answer
	}
	return object{}
}

func (b *broker) stats(w http.ResponseWriter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	told := object{}
	for name, q := range b.queues {
		told[name] = q.told()
	}
	json.NewEncoder(w).Encode(told)
}

func fail(w http.ResponseWriter, code, text string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(400)
	json.NewEncoder(w).Encode(object{"__type": "com.amazonaws.sqs#" + code, "message": text})
}

func main() {
	certificate := flag.String("cert", "", "PEM file with certificate and key: serve TLS")
	delay := flag.Duration("delay", 0, "how long every answer takes, in place of a network")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	address := fmt.Sprintf("localhost:%d", listener.Addr().(*net.TCPAddr).Port)
	scheme := "http"
	if *certificate != "" {
		pair, err := tls.LoadX509KeyPair(*certificate, *certificate)
		if err != nil {
			panic(err)
		}
		config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
		listener, scheme = tls.NewListener(listener, config), "https"
	}
	b := &broker{queues: map[string]*queue{}, base: scheme + "://" + address, delay: *delay}
	go b.reap()
	fmt.Println(b.base)
	panic(http.Serve(listener, b))
}

// reap makes visible again, ten times a second, what was not deleted in time.
func (b *broker) reap() {
	for now := range time.Tick(100 * time.Millisecond) {
		b.mu.Lock()
		for _, q := range b.queues {
			q.reap(now)
		}
		b.mu.Unlock()
	}
}
