package native

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func opPut(key string) *pb.RequestOp { return putOp(&pb.PutRequest{Key: []byte(key)}) }

func opTxn(success, failure []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: success, Failure: failure}}}
}

func ops(o ...*pb.RequestOp) []*pb.RequestOp { return o }

// TestOverlapsAreRefusedAsEtcdRefusesThem has what etcd v3.6.13's checkIntervals says (server/etcdserver/api/v3rpc/key.go).
func TestOverlapsAreRefusedAsEtcdRefusesThem(t *testing.T) {
	for name, c := range map[string]struct {
		ops     []*pb.RequestOp
		refused bool
	}{
		"a key twice":                           {ops(opPut("a"), opPut("a")), true},
		"two keys":                              {ops(opPut("a"), opPut("b")), false},
		"put, then deleted":                     {ops(opPut("a"), deleteOp("a", "")), true},
		"deleted, then put":                     {ops(deleteOp("a", ""), opPut("a")), true},
		"the key after the one deleted":         {ops(deleteOp("a", ""), opPut("a\x00")), false},
		"at the start of a deleted range":       {ops(deleteOp("a", "c"), opPut("a")), true},
		"within a deleted range":                {ops(deleteOp("a", "c"), opPut("b")), true},
		"at the end of a deleted range":         {ops(deleteOp("a", "c"), opPut("c")), false},
		"within a deleted range without end":    {ops(deleteOp("a", "\x00"), opPut("b")), false},
		"deleted twice":                         {ops(deleteOp("a", "c"), deleteOp("b", "")), false},
		"put in both branches":                  {ops(opTxn(ops(opPut("a")), ops(opPut("a")))), false},
		"put in a branch and beside":            {ops(opTxn(nil, ops(opPut("a"))), opPut("a")), true},
		"put before and in a branch":            {ops(opPut("a"), opTxn(ops(opPut("a")), nil)), true},
		"put in two transactions within":        {ops(opTxn(ops(opPut("a")), nil), opTxn(nil, ops(opPut("a")))), true},
		"put within, deleted beside":            {ops(opTxn(nil, ops(opPut("a"))), deleteOp("a", "b")), true},
		"deleted within, put beside":            {ops(opTxn(nil, ops(deleteOp("a", "b"))), opPut("a")), true},
		"deleted within, put within the next":   {ops(opTxn(ops(deleteOp("a", "b")), nil), opTxn(ops(opPut("a")), nil)), true},
		"put within, deleted within the next":   {ops(opTxn(ops(opPut("a")), nil), opTxn(ops(deleteOp("a", "b")), nil)), false},
		"deleted in a branch, put in the other": {ops(opTxn(ops(deleteOp("a", "")), ops(opPut("a")))), false},
		"twice two levels down":                 {ops(opTxn(ops(opTxn(ops(opPut("a")), nil), opPut("a")), nil)), true},
	} {
		for side, r := range map[string]*pb.TxnRequest{"success": {Success: c.ops}, "failure": {Failure: c.ops}} {
			err := checkOverlaps(r)
			if c.refused != errors.Is(err, rpctypes.ErrGRPCDuplicateKey) || !c.refused && err != nil {
				t.Errorf("%s, %s: %v", name, side, err)
			}
		}
	}
	if err := checkOverlaps(&pb.TxnRequest{Success: ops(opPut("a")), Failure: ops(opPut("a"))}); err != nil {
		t.Errorf("one put in each branch: %v", err)
	}
}

func TestTransactionsAreBoundedOverAllLevels(t *testing.T) {
	const most = 4
	three := ops(opPut("a"), opPut("b"), opPut("c"))
	for name, c := range map[string]struct {
		r    *pb.TxnRequest
		want error
	}{
		"as many as allowed":        {&pb.TxnRequest{Success: append(ops(opPut("d")), three...)}, nil},
		"one more":                  {&pb.TxnRequest{Failure: append(ops(opPut("d"), opPut("e")), three...)}, rpctypes.ErrGRPCTooManyOps},
		"as many below":             {&pb.TxnRequest{Success: ops(opTxn(three, nil))}, nil},
		"one more below":            {&pb.TxnRequest{Success: ops(opTxn(three, nil), opPut("d"))}, rpctypes.ErrGRPCTooManyOps},
		"a compare without key":     {&pb.TxnRequest{Compare: []*pb.Compare{{}}}, rpctypes.ErrGRPCEmptyKey},
		"an operation that is none": {&pb.TxnRequest{Success: ops(&pb.RequestOp{})}, rpctypes.ErrGRPCKeyNotFound},
		"a put without key below":   {&pb.TxnRequest{Success: ops(opTxn(nil, ops(opPut(""))))}, rpctypes.ErrGRPCEmptyKey},
	} {
		if err := checkTxn(c.r, most); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
