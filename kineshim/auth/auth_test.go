package auth

import (
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
)

// hash is a cheap one.
func hash(t *testing.T, password string) []byte {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// must is for changes that are known to be possible.
func must(s *State, err error) *State {
	if err != nil {
		panic(err)
	}
	return s
}

// furnished is an enabled State with root, whose password is "r", and alice, whose password is "a" and who may read a to c, write b and do
// anything from x on.
func furnished(t *testing.T) *State {
	s := must(New().AddUser(&pb.AuthUserAddRequest{Name: root}, hash(t, "r")))
	s = must(s.GrantRole(root, root))
	s = must(s.AddUser(&pb.AuthUserAddRequest{Name: "alice"}, hash(t, "a")))
	s = must(s.AddRole("clerk"))
	for _, p := range []*authpb.Permission{
		{PermType: authpb.READ, Key: []byte("a"), RangeEnd: []byte("b")}, {PermType: authpb.READ, Key: []byte("b"), RangeEnd: []byte("c")},
		{PermType: authpb.WRITE, Key: []byte("b")}, {PermType: authpb.READWRITE, Key: []byte("x"), RangeEnd: []byte{0}},
	} {
		s = must(s.GrantPermission("clerk", p))
	}
	s = must(s.GrantRole("alice", "clerk"))
	return must(s.Enable([]byte("key")))
}

// book is Leases: lease 1 has b, lease 2 has c.
type book struct{}

func (book) Keys(id int64) []string { return map[int64][]string{1: {"b"}, 2: {"c"}}[id] }
func (book) AllKeys() []string      { return []string{"b", "c"} }

var (
	alice    = Caller{Name: "alice", Known: true}
	theRoot  = Caller{Name: root, Known: true}
	stranger = Caller{Name: "bob", Known: true}
)

func read(key, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func txn(op *pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Failure: []*pb.RequestOp{op}} }

func TestWhoMayDoWhat(t *testing.T) {
	s := furnished(t)
	put := func(key string, lease int64, prev bool) *pb.PutRequest {
		return &pb.PutRequest{Key: []byte(key), Lease: lease, PrevKv: prev}
	}
	for _, c := range []struct {
		who     Caller
		request any
		want    error
	}{
		{alice, read("a", ""), nil},
		{alice, read("aa", ""), nil},
		{alice, read("a", "c"), nil}, // two permissions that touch
		{alice, read("a", "c\x00"), rpctypes.ErrGRPCPermissionDenied},
		{alice, read("A", "b"), rpctypes.ErrGRPCPermissionDenied},
		{alice, read("c", ""), rpctypes.ErrGRPCPermissionDenied},
		{alice, read("x", "\x00"), nil},
		{alice, read("w", "\x00"), rpctypes.ErrGRPCPermissionDenied},
		{alice, read("y", "zz"), nil},
		{theRoot, read("\x00", "\x00"), nil},
		{alice, read("b", "a"), nil}, // empty, and within what she may read
		{alice, read("w", "A"), rpctypes.ErrGRPCPermissionDenied},
		{Caller{}, read("a", ""), rpctypes.ErrGRPCUserEmpty},
		{stranger, read("a", ""), rpctypes.ErrGRPCPermissionDenied},

		{alice, put("b", 0, false), nil},
		{alice, put("a", 0, false), rpctypes.ErrGRPCPermissionDenied},
		{alice, put("b", 1, true), nil},
		{alice, put("b", 2, false), rpctypes.ErrGRPCPermissionDenied}, // who revokes the lease would delete c
		{theRoot, put("c", 2, true), nil},
		{alice, &pb.DeleteRangeRequest{Key: []byte("b")}, nil},
		{alice, &pb.DeleteRangeRequest{Key: []byte("b"), RangeEnd: []byte("c")}, rpctypes.ErrGRPCPermissionDenied},

		{alice, txn(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put("b", 0, false)}}), nil},
		{alice, txn(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put("c", 0, false)}}), rpctypes.ErrGRPCPermissionDenied},
		{alice, txn(&pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: read("c", "")}}), rpctypes.ErrGRPCPermissionDenied},
		{alice, txn(&pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn(&pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("c")}}})}}), rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("c")}}}, rpctypes.ErrGRPCPermissionDenied},

		{alice, &pb.WatchCreateRequest{Key: []byte("x"), RangeEnd: []byte{0}}, nil},
		{alice, &pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte{0}}, rpctypes.ErrGRPCPermissionDenied}, // not as etcd, which asks for a only
		{alice, &pb.WatchCreateRequest{}, rpctypes.ErrGRPCPermissionDenied},
		{Caller{}, &pb.WatchCreateRequest{Key: []byte("x")}, rpctypes.ErrGRPCUserEmpty},

		{Caller{}, &pb.LeaseGrantRequest{}, rpctypes.ErrGRPCUserEmpty},
		{stranger, &pb.LeaseGrantRequest{}, nil},
		{alice, &pb.LeaseRevokeRequest{ID: 1}, nil},
		{alice, &pb.LeaseRevokeRequest{ID: 2}, rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.LeaseKeepAliveRequest{ID: 2}, rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.LeaseTimeToLiveRequest{ID: 2}, nil},
		{alice, &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true}, rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}, nil},
		{alice, &pb.LeaseLeasesRequest{}, rpctypes.ErrGRPCPermissionDenied},
		{theRoot, &pb.LeaseLeasesRequest{}, nil},

		{alice, &pb.CompactionRequest{}, rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.StatusRequest{}, nil},
		{Caller{}, &pb.StatusRequest{}, rpctypes.ErrGRPCUserEmpty},
		{alice, &pb.AlarmRequest{}, nil},
		{alice, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE}, rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.SnapshotRequest{}, rpctypes.ErrGRPCPermissionDenied},
		{Caller{}, &pb.SnapshotRequest{}, rpctypes.ErrGRPCUserEmpty},
		{stranger, &pb.SnapshotRequest{}, rpctypes.ErrGRPCUserNotFound},
		{theRoot, &pb.SnapshotRequest{}, nil},
		{alice, &pb.AuthDisableRequest{}, rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.AuthUserGetRequest{Name: "alice"}, nil},
		{alice, &pb.AuthUserGetRequest{Name: root}, rpctypes.ErrGRPCPermissionDenied},
		{alice, &pb.AuthRoleGetRequest{Role: "clerk"}, nil},
		{alice, &pb.AuthRoleGetRequest{Role: "other"}, rpctypes.ErrGRPCPermissionDenied},
		{Caller{}, &pb.AuthenticateRequest{}, nil},
		{alice, struct{}{}, rpctypes.ErrGRPCPermissionDenied}, // what is not known
	} {
		if got := s.Permit(c.who, c.request, book{}); got != c.want {
			t.Errorf("%+v, %T %v: %v, want %v", c.who, c.request, c.request, got, c.want)
		}
		if got := s.Disable().Permit(c.who, c.request, book{}); got != nil {
			t.Errorf("disabled: %+v, %T %v: %v", c.who, c.request, c.request, got)
		}
	}
}

func TestTokens(t *testing.T) {
	s := furnished(t)
	now := time.Unix(1000, 0)
	token, err := s.Authenticate("alice", "a", now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Unmarshal(marshalled(t, s)) // the other node's
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		s    *State
		at   time.Duration
		want bool
	}{
		"at once": {s, 0, true}, "on the other node": {again, 0, true}, "just before its end": {s, TokenLife - time.Second, true}, "at its end": {s, TokenLife, false},
		"another change since": {must(s.RevokeRole("alice", "clerk")), 0, true},
		"another password":     {must(s.ChangePassword("alice", hash(t, "b"))), 0, false},
		"deleted":              {must(s.DeleteUser("alice")), 0, false},
		"deleted and added":    {must(must(s.DeleteUser("alice")).AddUser(&pb.AuthUserAddRequest{Name: "alice"}, hash(t, "a"))), 0, false},
		"disabled":             {s.Disable(), 0, false},
		"enabled again":        {must(s.Disable().Enable([]byte("other"))), 0, false},
		"another's password":   {must(s.ChangePassword(root, hash(t, "b"))), 0, true},
	} {
		got, err := c.s.Token(token, now.Add(c.at))
		if (err == nil) != c.want || err == nil && got != alice || err != nil && err != rpctypes.ErrGRPCInvalidAuthToken {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for i := range token {
		changed := []byte(token)
		changed[i] ^= 1
		if got, err := s.Token(string(changed), now); err == nil && i < len(token)-1 { // the last letter may have unused bits
			t.Errorf("with another letter at %d: %+v", i, got)
		}
	}
	for _, c := range []struct {
		name, password string
		want           error
	}{{"alice", "b", rpctypes.ErrGRPCAuthFailed}, {"bob", "a", rpctypes.ErrGRPCAuthFailed}, {"alice", "", rpctypes.ErrGRPCAuthFailed}} {
		if _, err := s.Authenticate(c.name, c.password, now); err != c.want {
			t.Errorf("%s, %q: %v", c.name, c.password, err)
		}
	}
	s = must(s.AddUser(&pb.AuthUserAddRequest{Name: "cert", Options: &authpb.UserAddOptions{NoPassword: true}}, hash(t, "x")))
	if _, err := s.Authenticate("cert", "x", now); err != rpctypes.ErrGRPCAuthFailed {
		t.Errorf("a user without a password: %v", err)
	}
	if _, err := s.Disable().Authenticate("alice", "a", now); err != rpctypes.ErrGRPCAuthNotEnabled {
		t.Errorf("disabled: %v", err)
	}
}

func marshalled(t *testing.T, s *State) []byte {
	t.Helper()
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAStateIsReadAsItWasWritten(t *testing.T) {
	s := furnished(t)
	again, err := Unmarshal(marshalled(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if string(marshalled(t, again)) != string(marshalled(t, s)) || again.Version() != s.Version() || again.Revision() != s.Revision() || !again.Enabled() {
		t.Errorf("%+v, want %+v", again, s)
	}
	if err := again.Permit(alice, read("a", "c"), book{}); err != nil {
		t.Error(err)
	}
	if err := again.Permit(alice, read("a", "d"), book{}); err != rpctypes.ErrGRPCPermissionDenied {
		t.Error(err)
	}
}

func TestAStateNeverChanges(t *testing.T) {
	s := furnished(t)
	before := marshalled(t, s)
	must(s.GrantPermission("clerk", &authpb.Permission{PermType: authpb.WRITE, Key: []byte("a"), RangeEnd: []byte("b")}))
	must(s.GrantPermission("clerk", &authpb.Permission{Key: []byte("c")}))
	must(s.RevokePermission("clerk", []byte("b"), nil))
	must(s.DeleteRole("clerk"))
	must(must(s.AddRole("another")).GrantRole("alice", "another"))
	must(s.RevokeRole("alice", "clerk"))
	must(s.ChangePassword("alice", nil))
	must(s.DeleteUser("alice"))
	s.Disable()
	if after := marshalled(t, s); string(after) != string(before) {
		t.Errorf("%s\nwas\n%s", after, before)
	}
	if s.Disable().Version() != s.Version()+1 || fmt.Sprint(s.Disable().Revision()) != fmt.Sprint(s.Revision()+1) {
		t.Error("a change has no number")
	}
}
