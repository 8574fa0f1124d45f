package kineshim

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// frame is one message as it is on the wire. Forwarded messages pass through the node in frames, so that nothing that a newer
// client or server put into them is lost.
type frame struct{ wire []byte }

// frameCodec passes frames through and leaves everything else to gRPC's own codec. It is stateless.
type frameCodec struct{ encoding.CodecV2 }

func newFrameCodec() frameCodec { return frameCodec{encoding.GetCodecV2(proto.Name)} }

// Marshal returns a frame's bytes, or the encoded message.
func (c frameCodec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f.wire)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal copies the bytes into a frame, or decodes the message: gRPC reuses data's buffers. A transaction is looked at before.
func (c frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.wire = data.Materialize()
		return nil
	}
	if _, ok := v.(*etcdserverpb.TxnRequest); !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	if err := checkTxnShape(whole.ReadOnlyData()); err != nil {
		return err
	}
	return c.CodecV2.Unmarshal(mem.BufferSlice{whole}, v)
}
