package auth

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Caller is who asks. The zero Caller has said nothing of himself.
type Caller struct {
	Name string
	// Known: there is a name, from a token or a certificate.
	Known bool
}

// Leases tells which keys go with leases.
type Leases interface {
	// Keys are those of a lease; none if there is no such lease.
	Keys(id int64) []string
	// AllKeys are those of all leases.
	AllKeys() []string
}

// Permit says why the caller may not do what the request asks for; nil: he may. It is the one table of what needs what. Requests that it does not
// know are for root only. A request that is permitted by one State may be refused by the next: ask in the order of the changes.
func (s *State) Permit(c Caller, request any, leases Leases) error {
	if !s.enabled {
		return nil
	}
	switch r := request.(type) {
	case *pb.AuthenticateRequest:
		return nil

	case *pb.RangeRequest:
		return s.mayRead(c, r.Key, r.RangeEnd)
	case *pb.PutRequest:
		return s.mayPut(c, r, leases)
	case *pb.DeleteRangeRequest:
		return first(func() error { return s.mayWrite(c, r.Key, r.RangeEnd) }, func() error { return s.mayReadPrevious(c, r) })
	case *pb.TxnRequest:
		return s.mayTxn(c, r, leases)

	case *pb.WatchCreateRequest:
		key, end := r.Key, r.RangeEnd
		if len(key) == 0 {
			key = []byte{0}
		}
		return watchError(s.mayRead(c, key, end))

	case *pb.LeaseGrantRequest:
		return s.known(c)
	case *pb.LeaseRevokeRequest:
		return first(func() error { return s.known(c) }, func() error { return s.mayUseLease(c, r.ID, leases) })
	case *pb.LeaseKeepAliveRequest:
		return first(func() error { return s.known(c) }, func() error { return s.mayUseLease(c, r.ID, leases) })
	case *pb.LeaseTimeToLiveRequest:
		return first(func() error { return s.known(c) }, func() error {
			if !r.Keys {
				return nil
			}
			return s.mayReadAll(c, func() []string { return leases.Keys(r.ID) })
		})
	case *pb.LeaseLeasesRequest:
		return first(func() error { return s.known(c) }, func() error { return s.mayReadAll(c, leases.AllKeys) })

	case *pb.MemberListRequest, *pb.StatusRequest:
		return s.known(c)
	case *pb.AlarmRequest:
		if r.Action == pb.AlarmRequest_GET {
			return s.known(c)
		}

	case *pb.AuthUserGetRequest: // everybody may look at himself
		if c.Name == r.Name {
			return nil
		}
	case *pb.AuthRoleGetRequest: // and at his roles
		if u, ok := s.users[c.Name]; ok && len(without(u.Roles, r.Role)) < len(u.Roles) {
			return nil
		}
	}
	return s.admin(c)
}

func first(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// known: whoever it is, he has said who.
func (s *State) known(c Caller) error {
	if !c.Known {
		return rpctypes.ErrGRPCUserEmpty
	}
	return nil
}

// admin: the caller is one who has the role root.
func (s *State) admin(c Caller) error {
	if c.Name == "" {
		return rpctypes.ErrGRPCUserEmpty
	}
	u, ok := s.users[c.Name]
	switch {
	case !ok:
		return rpctypes.ErrGRPCUserNotFound
	case !u.isRoot():
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

func (s *State) mayRead(c Caller, key, end []byte) error {
	return s.may(c, key, end, func(u user) []interval { return u.read })
}

func (s *State) mayWrite(c Caller, key, end []byte) error {
	return s.may(c, key, end, func(u user) []interval { return u.write })
}

func (s *State) may(c Caller, key, end []byte, permitted func(user) []interval) error {
	if !c.Known {
		return rpctypes.ErrGRPCUserEmpty
	}
	u, ok := s.users[c.Name]
	if !ok {
		return rpctypes.ErrGRPCPermissionDenied
	}
	if u.isRoot() {
		return nil
	}
	asked := span(key, end)
	if len(end) == 0 && meetsAny(permitted(u), asked) || len(end) > 0 && covers(permitted(u), asked) {
		return nil
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// mayPut: to give a key to a lease is to let whoever may revoke the lease delete it, and the other keys of it go with it.
func (s *State) mayPut(c Caller, r *pb.PutRequest, leases Leases) error {
	return first(func() error { return s.mayWrite(c, r.Key, nil) }, func() error { return s.mayUseLease(c, r.Lease, leases) }, func() error {
		if !r.PrevKv {
			return nil
		}
		return s.mayRead(c, r.Key, nil)
	})
}

func (s *State) mayReadPrevious(c Caller, r *pb.DeleteRangeRequest) error {
	if !r.PrevKv {
		return nil
	}
	return s.mayRead(c, r.Key, r.RangeEnd)
}

// mayUseLease: the caller may write all keys of the lease.
func (s *State) mayUseLease(c Caller, id int64, leases Leases) error {
	if id == 0 || s.admin(c) == nil {
		return nil
	}
	for _, key := range leases.Keys(id) {
		if err := s.mayWrite(c, []byte(key), nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) mayReadAll(c Caller, keys func() []string) error {
	if s.admin(c) == nil {
		return nil
	}
	for _, key := range keys() {
		if err := s.mayRead(c, []byte(key), nil); err != nil {
			return err
		}
	}
	return nil
}

// mayTxn: everything that a transaction could do, whichever branch it takes, and all that it compares with.
func (s *State) mayTxn(c Caller, r *pb.TxnRequest, leases Leases) error {
	for _, cmp := range r.Compare {
		if err := s.mayRead(c, cmp.Key, cmp.RangeEnd); err != nil {
			return err
		}
	}
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := s.mayOp(c, op, leases); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *State) mayOp(c Caller, op *pb.RequestOp, leases Leases) error {
	switch {
	case op.GetRequestRange() != nil:
		return s.mayRead(c, op.GetRequestRange().Key, op.GetRequestRange().RangeEnd)
	case op.GetRequestPut() != nil:
		return s.mayPut(c, op.GetRequestPut(), leases)
	case op.GetRequestDeleteRange() != nil:
		r := op.GetRequestDeleteRange()
		return first(func() error { return s.mayReadPrevious(c, r) }, func() error { return s.mayWrite(c, r.Key, r.RangeEnd) })
	case op.GetRequestTxn() != nil:
		return s.mayTxn(c, op.GetRequestTxn(), leases)
	}
	return nil
}

// watchError is what a watch is told that was not permitted: as in etcd, one of a few reasons.
func watchError(err error) error {
	if err == nil || err == rpctypes.ErrGRPCUserEmpty {
		return err
	}
	return rpctypes.ErrGRPCPermissionDenied
}
