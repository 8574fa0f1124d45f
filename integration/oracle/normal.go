package oracle

import (
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// normal takes out of an answer what may differ, and puts revisions and lease IDs into the sequence's terms. Everything else
// stays, so that it is compared.
func (s *system) normal(o outcome) outcome {
	if o.err != nil {
		return o
	}
	switch a := o.answer.(type) {
	case *pb.RangeResponse:
		s.top(a.Header)
		s.ranges(a)
	case *pb.PutResponse:
		s.top(a.Header)
		s.kvs(a.PrevKv)
	case *pb.DeleteRangeResponse:
		s.top(a.Header)
		s.kvs(a.PrevKvs...)
	case *pb.TxnResponse:
		s.top(a.Header)
		s.txn(a)
	case *pb.CompactionResponse:
		s.top(a.Header)
	case *pb.LeaseGrantResponse:
		s.top(a.Header)
		a.ID = s.leaseOf(a.ID)
	case *pb.LeaseRevokeResponse:
		s.top(a.Header)
	case *pb.LeaseTimeToLiveResponse:
		s.top(a.Header)
		a.ID = s.leaseOf(a.ID)
		// etcd's come in the order of a Go map.
		slices.SortFunc(a.Keys, func(x, y []byte) int { return slices.Compare(x, y) })
	case *pb.LeaseLeasesResponse:
		s.top(a.Header)
		for _, l := range a.Leases {
			l.ID = s.leaseOf(l.ID)
		}
	case *pb.LeaseKeepAliveResponse:
		s.top(a.Header)
		a.ID = s.leaseOf(a.ID)
	}
	return o
}

// top is the header of a whole answer; those inside a transaction hold nothing but a revision, in etcd also.
func (s *system) top(h *pb.ResponseHeader) {
	if h == nil {
		return
	}
	h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
	s.header(h)
}

func (s *system) header(h *pb.ResponseHeader) {
	if h != nil {
		h.Revision = s.numbers.toRef(h.Revision)
	}
}

func (s *system) kvs(kvs ...*mvccpb.KeyValue) {
	for _, kv := range kvs {
		if kv == nil {
			continue
		}
		kv.CreateRevision = s.numbers.toRef(kv.CreateRevision)
		kv.ModRevision = s.numbers.toRef(kv.ModRevision)
		kv.Lease = s.leaseOf(kv.Lease)
	}
}

func (s *system) ranges(a *pb.RangeResponse) {
	if a != nil {
		s.kvs(a.Kvs...)
	}
}

func (s *system) txn(a *pb.TxnResponse) {
	if a == nil {
		return
	}
	for _, op := range a.Responses {
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			s.header(op.ResponseRange.GetHeader())
			s.ranges(op.ResponseRange)
		case *pb.ResponseOp_ResponsePut:
			s.header(op.ResponsePut.GetHeader())
			s.kvs(op.ResponsePut.GetPrevKv())
		case *pb.ResponseOp_ResponseDeleteRange:
			s.header(op.ResponseDeleteRange.GetHeader())
			s.kvs(op.ResponseDeleteRange.GetPrevKvs()...)
		case *pb.ResponseOp_ResponseTxn:
			s.header(op.ResponseTxn.GetHeader())
			s.txn(op.ResponseTxn)
		}
	}
}

// ttlTolerance is by how many seconds the rest of a lease's life may differ: the two were granted one after the other, and
// each endpoint rounds.
const ttlTolerance = 1

// alike makes equal what two normal answers may differ in because of when they were given.
func (r *run) alike(ref, own outcome) {
	if ref.err != nil || own.err != nil {
		return
	}
	switch a := ref.answer.(type) {
	case *pb.LeaseTimeToLiveResponse:
		b := own.answer.(*pb.LeaseTimeToLiveResponse)
		d := a.TTL - b.TTL
		if a.TTL >= 0 && b.TTL >= 0 && (d >= -ttlTolerance && d <= ttlTolerance || r.pair.restarted && r.pair.renews) {
			b.TTL = a.TTL
		}
	case *pb.LeaseLeasesResponse:
		// In the order of their expiry, which a restart may blur.
		if r.pair.restarted {
			for _, l := range [][]*pb.LeaseStatus{a.Leases, own.answer.(*pb.LeaseLeasesResponse).Leases} {
				slices.SortFunc(l, func(x, y *pb.LeaseStatus) int { return cmp.Compare(x.ID, y.ID) })
			}
		}
	}
	if r.pair.mask != nil {
		r.pair.mask(ref.answer)
		r.pair.mask(own.answer)
	}
}
