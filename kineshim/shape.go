package kineshim

import (
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// maxTxnDepth and maxTxnParts bound what a transaction is made of: how deep others are within it, and how many compares and operations it has in all
	// of them. etcd looks at that when it has decoded the request, which of two bytes makes a hundred, and calls itself once for each level: two megabytes
	// become hundreds, and many such requests at once take a node's memory. Nobody needs as much: max_txn_ops is 128 by default, and 100,000 at most.
	maxTxnDepth = 1000
	maxTxnParts = 100_000
)

// The numbers of fields: TxnRequest's compare, success and failure, and RequestOp's request_txn.
const (
	txnCompare protowire.Number = 1
	txnSuccess protowire.Number = 2
	txnFailure protowire.Number = 3
	opTxn      protowire.Number = 4
)

// checkTxnShape says whether a TxnRequest is to be decoded. What it cannot read, it refuses.
func checkTxnShape(message []byte) error {
	parts := maxTxnParts
	return txnShape(message, maxTxnDepth, &parts)
}

func txnShape(message []byte, depth int, parts *int) error {
	if depth == 0 {
		return rpctypes.ErrTooManyOps
	}
	return eachField(message, func(num protowire.Number, value []byte) error {
		if num != txnCompare && num != txnSuccess && num != txnFailure {
			return nil
		}
		if *parts--; *parts < 0 {
			return rpctypes.ErrTooManyOps
		}
		if num == txnCompare {
			return nil
		}
		return eachField(value, func(num protowire.Number, value []byte) error {
			if num != opTxn {
				return nil
			}
			return txnShape(value, depth-1, parts)
		})
	})
}

// eachField calls f with each field of a message, the value of those that have a length.
func eachField(message []byte, f func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		num, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(num, kind, message); n < 0 {
			return protowire.ParseError(n)
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			if err := f(num, value); err != nil {
				return err
			}
		}
		message = message[n:]
	}
	return nil
}
