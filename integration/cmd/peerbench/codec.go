package main

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// leanCodec speaks protobuf for messages that can do it themselves: etcd's, and ranged.
type leanCodec struct{}

func (leanCodec) Name() string { return "proto" }

func (leanCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := v.(interface{ Marshal() ([]byte, error) }).Marshal()
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (leanCodec) Unmarshal(data mem.BufferSlice, v any) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return v.(interface{ Unmarshal([]byte) error }).Unmarshal(buf.ReadOnlyData()) // which copies what it keeps
}

// ranged is what the generator wants to know of a RangeResponse: how many keys with a value it holds, and the last of them.
type ranged struct {
	revision int64 // the header's
	more     bool
	count    int64
	keys     int // in the answer, with their values
	lastKey  string
	lastMod  int64
	// shortest and longest are the values' lengths in bytes.
	shortest, longest int
}

// The fields' numbers in etcd's rpc.proto and kv.proto.
const (
	rangeHeader, rangeKvs, rangeMore, rangeCount = 1, 2, 3, 4
	headerRevision                               = 3
	kvKey, kvMod, kvValue                        = 1, 3, 5
)

// Unmarshal reads a RangeResponse.
func (r *ranged) Unmarshal(b []byte) error {
	*r = ranged{}
	var last []byte
	err := fields(b, func(number protowire.Number, varint uint64, data []byte) error {
		switch number {
		case rangeHeader:
			return fields(data, func(number protowire.Number, varint uint64, _ []byte) error {
				if number == headerRevision {
					r.revision = int64(varint)
				}
				return nil
			})
		case rangeKvs:
			last = data
			return r.addKey(data)
		case rangeMore:
			r.more = varint != 0
		case rangeCount:
			r.count = int64(varint)
		}
		return nil
	})
	if err != nil || last == nil {
		return err
	}
	return fields(last, func(number protowire.Number, varint uint64, data []byte) error {
		switch number {
		case kvKey:
			r.lastKey = string(data)
		case kvMod:
			r.lastMod = int64(varint)
		}
		return nil
	})
}

func (r *ranged) addKey(kv []byte) error {
	length := 0
	err := fields(kv, func(number protowire.Number, _ uint64, data []byte) error {
		if number == kvValue {
			length = len(data)
		}
		return nil
	})
	if r.keys == 0 || length < r.shortest {
		r.shortest = length
	}
	r.longest = max(r.longest, length)
	r.keys++
	return err
}

// fields calls f with each field of a message: a varint's value, or the bytes of one with a length.
func fields(b []byte, f func(number protowire.Number, varint uint64, data []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var varint uint64
		var data []byte
		switch kind {
		case protowire.VarintType:
			varint, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(b)
		default:
			return fmt.Errorf("field %d has wire type %d, which etcd's messages do not use", number, kind)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(number, varint, data); err != nil {
			return err
		}
	}
	return nil
}
