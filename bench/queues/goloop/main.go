// The loop that people write by hand, on the AWS SDK for Go: receive ten, handle, delete ten.
package main

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

func main() {
	ctx := context.Background()
	settings, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		panic(err)
	}
	client := sqs.NewFromConfig(settings, func(o *sqs.Options) {
		o.BaseEndpoint = aws.String(os.Getenv("BENCH_ENDPOINT"))
	})
	file, err := os.OpenFile(os.Getenv("BENCH_LEDGER"), os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	count, _ := strconv.Atoi(os.Getenv("BENCH_COUNT"))
	ledger, err := syscall.Mmap(int(file.Fd()), 0, count, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	pollers, _ := strconv.Atoi(os.Getenv("BENCH_POLLERS"))
	var all sync.WaitGroup
	for range pollers {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				once(ctx, client, ledger)
			}
		}()
	}
	all.Wait()
}

func once(ctx context.Context, client *sqs.Client, ledger []byte) {
	url := aws.String(os.Getenv("BENCH_QUEUE"))
	got, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: url, MaxNumberOfMessages: 10, WaitTimeSeconds: 20,
	})
	if err != nil || len(got.Messages) == 0 {
		return
	}
	done := make([]types.DeleteMessageBatchRequestEntry, 0, 10)
	for i, message := range got.Messages {
		var work struct{ Number int }
		if json.Unmarshal([]byte(*message.Body), &work) != nil {
			continue
		}
		ledger[work.Number]++
		done = append(done, types.DeleteMessageBatchRequestEntry{
			Id: aws.String(strconv.Itoa(i)), ReceiptHandle: message.ReceiptHandle,
		})
	}
	client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: url, Entries: done})
}
