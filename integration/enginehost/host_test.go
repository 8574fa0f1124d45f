package enginehost

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"kineshim/integration/pgtest"
	"kineshim/kineshim/native"
)

const patience = 20 * time.Second

func start(t *testing.T) (*Host, etcdserverpb.KVClient) {
	t.Helper()
	h, err := Start(Options{Engine: native.Factory(native.Config{}), PG: pgtest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+h.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h, etcdserverpb.NewKVClient(conn)
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestRestartedEngineHasTheData(t *testing.T) {
	h, kv := start(t)
	put, err := kv.Put(soon(t), &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	if put.Header.ClusterId != ClusterID || put.Header.MemberId != MemberID || put.Header.RaftTerm != RaftTerm {
		t.Errorf("header %v", put.Header)
	}
	for range 2 {
		if err := h.RestartEngine(); err != nil {
			t.Fatal(err)
		}
		got, err := kv.Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
		if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" || got.Header.Revision != put.Header.Revision {
			t.Fatalf("%v, %v", got, err)
		}
	}
}

func TestGateThatIsShutOrKilledLetsNothingIn(t *testing.T) {
	h, kv := start(t)
	get := func() codes.Code {
		_, err := kv.Range(soon(t), &etcdserverpb.RangeRequest{Key: []byte("k")})
		return status.Code(err)
	}
	h.Gate.Shut("for a test")
	if code := get(); code != codes.Unavailable {
		t.Errorf("shut: %v", code)
	}
	h.Gate.Open()
	if code := get(); code != codes.OK {
		t.Errorf("open again: %v", code)
	}
	h.Gate.Kill()
	if code := get(); code != codes.Unavailable {
		t.Errorf("killed: %v", code)
	}
	if err := h.RestartEngine(); err != nil {
		t.Fatal(err)
	}
	if code := get(); code != codes.OK {
		t.Errorf("with a new session: %v", code)
	}
}
