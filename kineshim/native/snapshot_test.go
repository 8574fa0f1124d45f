package native

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/kineshim/snapshot"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestBlobsAreWhatWasWritten(t *testing.T) {
	for _, size := range []int{0, 1, blobBytes, blobBytes + 1, 3*blobBytes - 1, 3 * blobBytes} {
		var sent []*pb.SnapshotResponse
		b := &blobs{revision: 7, keys: 10, each: func() error { return nil }, send: func(r *pb.SnapshotResponse) error {
			sent = append(sent, r)
			return nil
		}}
		whole := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		for rest := whole; len(rest) > 0; {
			n := min(len(rest), 70_001)
			if got, err := b.Write(rest[:n]); err != nil || got != n {
				t.Fatal(got, err)
			}
			rest = rest[n:]
			b.done++
		}
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for i, r := range sent {
			got = append(got, r.Blob...)
			if last := i == len(sent)-1; (r.RemainingBytes == 0) != last || len(r.Blob) > blobBytes || r.Header.Revision != 7 || r.Version != storageVersion {
				t.Errorf("%d bytes, message %d of %d: %d bytes, %d remain", size, i, len(sent), len(r.Blob), r.RemainingBytes)
			}
		}
		if !bytes.Equal(got, whole) {
			t.Errorf("%d bytes: another content", size)
		}
	}
}

func TestBlobsEndWithTheStream(t *testing.T) {
	gone := errors.New("gone")
	b := &blobs{each: func() error { return nil }, send: func(*pb.SnapshotResponse) error { return gone }}
	w, err := snapshot.NewWriter(b, snapshot.Header{Revision: 1, Keys: 1})
	if err == nil {
		err = w.Row(snapshot.Row{Key: "k", Value: make([]byte, 2*blobBytes), Create: 1, Mod: 1, Version: 1})
	}
	if !errors.Is(err, gone) {
		t.Error(err)
	}
}

func TestHoldEndsWithoutAClientThatReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released atomic.Int32
		h := newPatientHold(func() { released.Add(1) }, time.Minute)
		for range 5 {
			time.Sleep(59 * time.Second)
			if err := h.goOn(); err != nil || released.Load() != 0 {
				t.Fatalf("a slow client is given up: %v", err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if released.Load() != 1 || !h.expired.Load() {
			t.Errorf("released %d times", released.Load())
		}
		if err := h.goOn(); !errors.Is(err, errSlowClient) {
			t.Errorf("goes on: %v", err)
		}
		time.Sleep(time.Hour)
		h.end()
		if released.Load() != 1 {
			t.Errorf("released %d times", released.Load())
		}
	})
}

func TestHoldEndsWithTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released atomic.Int32
		h := newPatientHold(func() { released.Add(1) }, time.Minute)
		h.end()
		time.Sleep(time.Hour)
		if released.Load() != 1 || h.expired.Load() {
			t.Errorf("released %d times", released.Load())
		}
	})
}
