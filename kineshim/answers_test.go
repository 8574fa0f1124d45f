package kineshim

import (
	"context"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const answerBytes = 1 << 20

// largeStore answers each read with a megabyte.
type largeStore struct{ etcdserverpb.KVServer }

func (largeStore) Range(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	return &etcdserverpb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Value: make([]byte, answerBytes)}}}, nil
}

// Clients that ask and do not read have the node hold no more than there may be, and when they have gone, others are answered again.
func TestLargeAnswersThatNobodyReadsAreBounded(t *testing.T) {
	codec := newFrameCodec()
	codec.answers = &answers{most: 7 * answerBytes / 2}
	s := grpc.NewServer(grpc.ForceServerCodecV2(codec))
	etcdserverpb.RegisterKVServer(s, largeStore{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ln)
	defer s.Stop()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStaticStreamWindowSize(65535))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reads := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{})
		return err
	}
	for range 20 {
		if err := reads(); err != nil {
			t.Fatalf("one who reads: %v", err)
		}
	}
	silent, leave := context.WithCancel(t.Context())
	defer leave()
	for range 3 {
		stream, err := conn.NewStream(silent, &grpc.StreamDesc{ServerStreams: true}, "/etcdserverpb.KV/Range")
		if err == nil {
			err = stream.SendMsg(&etcdserverpb.RangeRequest{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "three answers wait", func() bool { return codec.answers.waiting.Load() > 3*answerBytes })
	if err := reads(); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "too many large answers") {
		t.Errorf("a fourth: %v", err)
	}
	leave()
	eventually(t, "nothing is counted when they have gone", func() bool {
		runtime.GC() // for what gRPC has dropped without a word
		return codec.answers.waiting.Load() == 0
	})
	if err := reads(); err != nil {
		t.Errorf("when they have gone: %v", err)
	}
}

func TestAnAnswerThatIsForgottenIsNotCountedForEver(t *testing.T) {
	a := &answers{most: 1 << 30}
	forget := func() {
		b, err := newFrameCodec().Marshal(&frame{wire: make([]byte, answerBytes)})
		if err == nil {
			_, err = a.hold(b)
		}
		if err != nil || a.waiting.Load() != answerBytes {
			t.Fatalf("%d, %v", a.waiting.Load(), err)
		}
	}
	forget()
	eventually(t, "it is collected", func() bool {
		runtime.GC()
		return a.waiting.Load() == 0
	})
	b, err := newFrameCodec().Marshal(&frame{wire: make([]byte, 2*answerBytes)})
	if err != nil {
		t.Fatal(err)
	}
	a.most = answerBytes
	held, err := a.hold(b)
	if err != nil {
		t.Errorf("one answer alone, larger than all may be: %v", err)
	}
	held.Free()
	if n := a.waiting.Load(); n != 0 {
		t.Errorf("%d bytes are counted after it was sent", n)
	}
}
