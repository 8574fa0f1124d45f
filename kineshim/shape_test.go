package kineshim

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// nested is a transaction with others within it, so that there are depth in all.
func nested(depth int) []byte {
	var b []byte
	for range depth - 1 {
		op := protowire.AppendBytes(protowire.AppendTag(nil, opTxn, protowire.BytesType), b)
		b = protowire.AppendBytes(protowire.AppendTag(nil, txnSuccess, protowire.BytesType), op)
	}
	return b
}

// many is a transaction of empty compares.
func many(parts int) []byte {
	empty := protowire.AppendBytes(protowire.AppendTag(nil, txnCompare, protowire.BytesType), nil)
	return bytes.Repeat(empty, parts)
}

func decodeTxn(b []byte) (*etcdserverpb.TxnRequest, error) {
	r := new(etcdserverpb.TxnRequest)
	return r, newFrameCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, r)
}

func TestATransactionThatWouldTakeFarMoreMemoryThanItsBytesIsNotDecoded(t *testing.T) {
	for name, b := range map[string][]byte{"too deep": nested(maxTxnDepth + 1), "too many": many(maxTxnParts + 1)} {
		if _, err := decodeTxn(b); !errors.Is(err, rpctypes.ErrTooManyOps) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"deep": nested(maxTxnDepth), "many": many(maxTxnParts)} {
		if r, err := decodeTxn(b); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if n, _ := partsOf(r); n < maxTxnDepth-1 {
			t.Errorf("%s: %d parts were decoded", name, n)
		}
	}
}

// partsOf counts the compares and operations, and the levels.
func partsOf(r *etcdserverpb.TxnRequest) (parts, depth int) {
	parts, depth = len(r.Compare), 1
	for _, branch := range [][]*etcdserverpb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			parts++
			if inner := op.GetRequestTxn(); inner != nil {
				n, d := partsOf(inner)
				parts, depth = parts+n, max(depth, d+1)
			}
		}
	}
	return parts, depth
}

// FuzzTxn: what is decoded is bounded, whatever the bytes are; and a request that etcd's decoder and its encoder agree on is decoded.
func FuzzTxn(f *testing.F) {
	f.Add(nested(3))
	f.Add(many(5))
	f.Add([]byte{0x93, 0x80, 0x80, 0x80, 0x80, 0x08, 0x00}) // a field number beyond 32 bits, which etcd's decoder cuts off
	put := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v")}}}
	whole := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{Key: []byte("k"), Target: etcdserverpb.Compare_MOD, TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: 7}}},
		Success: []*etcdserverpb.RequestOp{put}, Failure: []*etcdserverpb.RequestOp{put},
	}
	b, err := whole.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeTxn(b)
		if err == nil {
			if parts, depth := partsOf(r); parts > maxTxnParts || depth > maxTxnDepth {
				t.Fatalf("%d parts, %d levels", parts, depth)
			}
			return
		}
		if len(b) > 4*maxTxnDepth {
			return // it may be refused for its shape, and this test is not to decode it
		}
		var theirs etcdserverpb.TxnRequest
		if theirs.Unmarshal(b) != nil {
			return
		}
		forgetUnknown(reflect.ValueOf(&theirs))
		if again, err := theirs.Marshal(); err == nil && bytes.Equal(again, b) {
			t.Fatalf("etcd takes it: %v", &theirs)
		}
	})
}

// forgetUnknown removes what etcd's decoder has read without understanding it: it takes more for a field than there is in protobuf.
func forgetUnknown(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			forgetUnknown(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			forgetUnknown(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "XXX_unrecognized" {
				v.Field(i).SetZero()
			} else {
				forgetUnknown(v.Field(i))
			}
		}
	}
}
