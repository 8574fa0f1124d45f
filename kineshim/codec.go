package kineshim

import (
	pb "kineshim/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// frame is one message as it is on the wire. Forwarded messages pass through the node in frames, so that nothing that a newer
// client or server put into them is lost.
type frame struct{ wire []byte }

// frameCodec passes frames through and leaves everything else to gRPC's own codec.
type frameCodec struct {
	encoding.CodecV2
	// answers counts what is encoded, if that is large.
	answers *answers
}

// newFrameCodec returns the codec of a client, which counts nothing.
func newFrameCodec() frameCodec { return frameCodec{CodecV2: encoding.GetCodecV2(proto.Name)} }

// counting is the codec of the servers.
func (c frameCodec) counting() frameCodec {
	return frameCodec{CodecV2: c.CodecV2, answers: &answers{most: maxAnswers}}
}

// Marshal returns a frame's bytes, or the encoded message.
func (c frameCodec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return c.answers.hold(mem.BufferSlice{mem.SliceBuffer(f.wire)})
	}
	b, err := c.CodecV2.Marshal(v)
	if _, own := v.(*pb.FollowResponse); own || err != nil { // of which there are few, and which clients that do not read must not hold up
		return b, err
	}
	return c.answers.hold(b)
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
