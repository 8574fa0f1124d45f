package kineshim

import (
	"bytes"
	"math"
	"unicode/utf8"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxKineKey is the longest key that an index of kine's table takes whatever is in it: a third of a page, less its head.
const maxKineKey = 2600

// kineCompactKey is Kubernetes' own compaction key. kine keeps it under another name, for itself uses this one, and maps
// requests for it.
const kineCompactKey = "compact_rev_key"

func refused(why string) error { return status.Error(codes.InvalidArgument, "etcdserver: "+why) }

// checkKey refuses what PostgreSQL's text cannot hold: the error that it gives would otherwise count as a failure of the
// database, against every request that is in flight.
func checkKey(key []byte) error {
	if len(key) > maxKineKey {
		return refused("the key is too long for the kine engine")
	}
	if !utf8.Valid(key) || bytes.IndexByte(key, 0) >= 0 {
		return refused("the key is not text: the kine engine cannot hold it")
	}
	return nil
}

func checkTTL(ttl int64) error {
	if ttl > math.MaxInt32 {
		return rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	return nil
}

func checkPut(r *etcdserverpb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue || r.IgnoreLease:
		return status.Error(codes.Unimplemented, "etcdserver: ignoreValue and ignoreLease are not supported by the kine engine")
	case r.Lease < 0 || r.Lease > math.MaxInt32:
		return rpctypes.ErrGRPCLeaseNotFound // its leases' IDs are their TTLs
	case string(r.Key) == kineCompactKey:
		return refused("the kine engine needs " + kineCompactKey + " for itself: use the transaction that Kubernetes uses")
	}
	return checkKey(r.Key)
}

// checkRange allows one zero byte at the end of a range's start, which is how a list goes on after a key.
func checkRange(r *etcdserverpb.RangeRequest) error {
	key := r.Key
	if len(r.RangeEnd) > 0 {
		key = bytes.TrimSuffix(key, []byte{0})
		if err := checkEnd(r.RangeEnd); err != nil {
			return err
		}
	} else {
		r.Limit = 0 // there is one key at most, and kine refuses limits for it
	}
	return checkKey(key)
}

func checkEnd(end []byte) error {
	if len(end) == 1 && end[0] == 0 {
		return refused("ranges without an end are not supported by the kine engine")
	}
	return checkKey(end)
}

func checkWatch(r *etcdserverpb.WatchCreateRequest) error {
	if len(r.Filters) > 0 {
		return refused("watch filters are not supported by the kine engine")
	}
	if err := checkKey(r.Key); err != nil {
		return err
	}
	return checkEnd(r.RangeEnd)
}

// checkTxn lets through only transactions that kine does as they are written. kine looks at their form and not at all of
// their fields: it would write the compared key instead of the put's, or delete one key of a range.
func checkTxn(r *etcdserverpb.TxnRequest) error {
	if len(r.Compare) > 1 || len(r.Success) == 0 || len(r.Success) > 2 || len(r.Failure) > 1 {
		return server.ErrNotSupported
	}
	var keys [][]byte
	for _, c := range r.Compare {
		if len(c.RangeEnd) > 0 || c.Result != etcdserverpb.Compare_EQUAL {
			return server.ErrNotSupported
		}
		keys = append(keys, c.Key)
	}
	for _, op := range append(append([]*etcdserverpb.RequestOp{}, r.Success...), r.Failure...) {
		key, err := checkOp(op)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		if !bytes.Equal(key, keys[0]) {
			return server.ErrNotSupported
		}
	}
	return checkForm(r)
}

// checkOp returns the one key that an operation is about.
func checkOp(op *etcdserverpb.RequestOp) ([]byte, error) {
	switch op := op.Request.(type) {
	case *etcdserverpb.RequestOp_RequestPut:
		p := op.RequestPut
		if p == nil || p.PrevKv || p.IgnoreLease || p.IgnoreValue {
			return nil, server.ErrNotSupported
		}
		if len(p.Key) == 0 {
			return nil, rpctypes.ErrGRPCEmptyKey
		}
		if p.Lease < 0 || p.Lease > math.MaxInt32 {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		return p.Key, checkKey(p.Key)
	case *etcdserverpb.RequestOp_RequestRange:
		g := op.RequestRange
		if g == nil || len(g.RangeEnd) > 0 || g.Revision != 0 || g.CountOnly || g.KeysOnly || g.MinModRevision != 0 ||
			g.MaxModRevision != 0 || g.MinCreateRevision != 0 || g.MaxCreateRevision != 0 {
			return nil, server.ErrNotSupported
		}
		return g.Key, checkKey(g.Key)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		d := op.RequestDeleteRange
		if d == nil || len(d.RangeEnd) > 0 {
			return nil, server.ErrNotSupported
		}
		return d.Key, checkKey(d.Key)
	}
	return nil, server.ErrNotSupported
}

// checkForm refuses the forms of which kine does something else than they say.
func checkForm(r *etcdserverpb.TxnRequest) error {
	deletes := r.Success[len(r.Success)-1].GetRequestDeleteRange() != nil
	if len(r.Compare) == 0 {
		if !deletes {
			return server.ErrNotSupported
		}
		return nil
	}
	c := r.Compare[0]
	switch {
	case string(c.Key) == kineCompactKey && c.Target != etcdserverpb.Compare_VERSION:
		return server.ErrNotSupported // kine has a row of that name for itself
	case c.Target == etcdserverpb.Compare_MOD && c.GetModRevision() < 0:
		return server.ErrNotSupported
	case deletes && c.Target == etcdserverpb.Compare_MOD && c.GetModRevision() == 0:
		return server.ErrNotSupported // kine would delete whatever is there
	}
	return nil
}

// withElse adds the range to a transaction that has no else, because kine knows some only with it; added says so. A create is
// known without it.
func withElse(r *etcdserverpb.TxnRequest) (with *etcdserverpb.TxnRequest, added bool) {
	if len(r.Failure) > 0 || len(r.Compare) != 1 || r.Compare[0].GetModRevision() == 0 {
		return r, false
	}
	found := &etcdserverpb.RangeRequest{Key: r.Compare[0].Key}
	return &etcdserverpb.TxnRequest{Compare: r.Compare, Success: r.Success, Failure: []*etcdserverpb.RequestOp{
		{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: found}},
	}}, true
}

// trueTxn returns kine's answer if it can be true. A compare that failed although the answer itself shows the compared revision
// hides an error of the database. And it puts right what kine says of deletes: of a missing key, which fails its compare, and
// of a key that others delete, where kine shows the tombstone as if it were there.
func trueTxn(r *etcdserverpb.TxnRequest, answer *etcdserverpb.TxnResponse) (*etcdserverpb.TxnResponse, error) {
	deletes := r.Success[len(r.Success)-1].GetRequestDeleteRange() != nil
	if len(r.Compare) == 0 {
		return trueDelete(answer)
	}
	if answer.Succeeded {
		if deletes && deletedBy(answer).GetDeleted() == 0 {
			return missed(answer.Header), nil
		}
		return answer, nil
	}
	found := foundKV(answer)
	if deletes && found != nil && found.CreateRevision == 0 && len(found.Value) == 0 {
		found = nil
		answer = missed(answer.Header)
	}
	var revision, version int64 // 0 when the key is missing
	if found != nil {
		revision, version = found.ModRevision, found.Version
	}
	c := r.Compare[0]
	shown := len(r.Failure) > 0 // a create without an else shows nothing
	if c.Target == etcdserverpb.Compare_MOD && shown && revision == c.GetModRevision() ||
		c.Target == etcdserverpb.Compare_VERSION && shown && version == c.GetVersion() {
		return nil, InDoubt("kine reports a failed compare with the very revision that the key has")
	}
	return answer, nil
}

// trueDelete is the answer to a range and a delete without a compare, which cannot fail and has two responses.
func trueDelete(answer *etcdserverpb.TxnResponse) (*etcdserverpb.TxnResponse, error) {
	deleted := deletedBy(answer)
	if !answer.Succeeded {
		if foundKV(answer) != nil {
			return nil, InDoubt("kine could not delete the key")
		}
		deleted = &etcdserverpb.DeleteRangeResponse{Header: answer.Header}
	}
	return &etcdserverpb.TxnResponse{Header: answer.Header, Succeeded: true, Responses: []*etcdserverpb.ResponseOp{
		foundOp(answer.Header, deleted.GetPrevKvs()),
		{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: deleted}},
	}}, nil
}

func deletedBy(answer *etcdserverpb.TxnResponse) *etcdserverpb.DeleteRangeResponse {
	if len(answer.Responses) == 0 {
		return nil
	}
	return answer.Responses[len(answer.Responses)-1].GetResponseDeleteRange()
}

// missed is the answer to a transaction whose compare failed on a key that is not there.
func missed(h *etcdserverpb.ResponseHeader) *etcdserverpb.TxnResponse {
	return &etcdserverpb.TxnResponse{Header: h, Responses: []*etcdserverpb.ResponseOp{foundOp(h, nil)}}
}

func foundKV(answer *etcdserverpb.TxnResponse) *mvccpb.KeyValue {
	if len(answer.Responses) != 1 {
		return nil
	}
	kvs := answer.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

func foundOp(h *etcdserverpb.ResponseHeader, kvs []*mvccpb.KeyValue) *etcdserverpb.ResponseOp {
	found := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: h.GetRevision()}, Kvs: kvs, Count: int64(len(kvs))}
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: found}}
}
