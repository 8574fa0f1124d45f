package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// reconnectAtMost bounds the wait between attempts to connect, so that a measurement shows the server's pause and not the client's.
const reconnectAtMost = 100 * time.Millisecond

// Dial makes a client for one node. It connects when first used.
func Dial(url string) (*clientv3.Client, error) { return DialAll([]string{url}) }

// DialAll makes a client for several nodes, among which it spreads its requests as etcd's client does. It connects when first used.
func DialAll(urls []string, options ...grpc.DialOption) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: urls,
		Logger:    zap.NewNop(),
		DialOptions: append([]grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: reconnectAtMost},
			MinConnectTimeout: time.Second,
		})}, options...),
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", strings.Join(urls, ", "), err)
	}
	return c, nil
}

// Etcd is a Store behind an etcd client.
type Etcd struct{ Client *clientv3.Client }

// Write sends the transactions that Kubernetes sends.
func (s Etcd) Write(ctx context.Context, op Op, key string, value []byte, compared int64) (Answer, error) {
	txn := s.Client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", compared))
	switch op {
	case Create:
		txn = txn.Then(clientv3.OpPut(key, string(value)))
	case Update:
		txn = txn.Then(clientv3.OpPut(key, string(value))).Else(clientv3.OpGet(key))
	case Delete:
		txn = txn.Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key))
	default:
		return Answer{}, fmt.Errorf("write: %q is no write", op)
	}
	resp, err := txn.Commit()
	if err != nil {
		return Answer{}, err
	}
	a := answer(resp.Header)
	a.Succeeded = resp.Succeeded
	for _, r := range resp.Responses {
		if rng := r.GetResponseRange(); rng != nil && !resp.Succeeded {
			a.Looked, a.KVs = true, kvsOf(rng.Kvs)
		}
		if del := r.GetResponseDeleteRange(); del != nil {
			a.Deleted = del.Deleted
		}
	}
	return a, nil
}

// Get reads one key.
func (s Etcd) Get(ctx context.Context, key string) (Answer, error) {
	resp, err := s.Client.Get(ctx, key)
	if err != nil {
		return Answer{}, err
	}
	a := answer(resp.Header)
	a.Looked, a.KVs = true, kvsOf(resp.Kvs)
	return a, nil
}

// List reads in pages; later pages at the revision of the first.
func (s Etcd) List(ctx context.Context, prefix string, limit int64) (Answer, error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	a := Answer{Looked: true}
	for revision := int64(0); ; {
		resp, err := s.Client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(revision))
		if err != nil {
			return Answer{}, err
		}
		if revision == 0 {
			head := answer(resp.Header)
			a.Revision, a.Member, a.Term, revision = head.Revision, head.Member, head.Term, head.Revision
		}
		a.KVs = append(a.KVs, kvsOf(resp.Kvs)...)
		if !resp.More {
			return a, nil
		}
		if len(resp.Kvs) == 0 {
			return Answer{}, errors.New("list: a page says there is more, but is empty")
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func answer(h *etcdserverpb.ResponseHeader) Answer {
	return Answer{Revision: h.GetRevision(), Member: h.GetMemberId(), Term: h.GetRaftTerm()}
}

func kvsOf(kvs []*mvccpb.KeyValue) []KV {
	out := make([]KV, len(kvs))
	for i, kv := range kvs {
		out[i] = KV{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
	}
	return out
}

// codeOf is the gRPC code of an error of an etcd client.
func codeOf(err error) codes.Code {
	var etcd rpctypes.EtcdError
	switch {
	case errors.As(err, &etcd):
		return etcd.Code()
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return status.Code(err)
}

// provesNothingDone are the codes with which a server refuses a request before it acts on it.
var provesNothingDone = map[codes.Code]bool{
	codes.InvalidArgument: true, codes.Unimplemented: true, codes.OutOfRange: true,
	codes.PermissionDenied: true, codes.Unauthenticated: true,
}
