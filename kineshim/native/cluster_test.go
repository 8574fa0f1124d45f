package native

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

func TestMemberListNamesTheAddressThatTheClientUsed(t *testing.T) {
	e := idle(&fakeCluster{})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(":authority", "127.0.0.1:2379"))
	r, err := e.MemberList(ctx, &pb.MemberListRequest{})
	if err != nil || len(r.Members) != 3 {
		t.Fatal(r, err)
	}
	for i, want := range []string{"http://127.0.0.1:2379", "http://b:2379", ""} {
		got := r.Members[i].ClientURLs
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[0] != want) {
			t.Errorf("%s: %v, want %q", r.Members[i].Name, got, want)
		}
	}
	secure := peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{}})
	if r, err := e.MemberList(secure, &pb.MemberListRequest{}); err != nil || r.Members[0].ClientURLs[0] != "https://127.0.0.1:2379" {
		t.Errorf("a client with TLS: %v, %v", r, err)
	}
	ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs(":authority", "/run/x.sock"))
	if r, err := e.MemberList(ctx, &pb.MemberListRequest{}); err != nil || len(r.Members[0].ClientURLs) != 0 {
		t.Errorf("a client on a socket: %v, %v", r, err)
	}
}

func TestMembershipIsFixed(t *testing.T) {
	e := idle(&fakeCluster{})
	add := func(learner bool, urls ...string) error {
		_, err := e.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
		return err
	}
	remove := func(id uint64) error {
		_, err := e.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id})
		return err
	}
	update := func(id uint64, url string) error {
		_, err := e.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{url}})
		return err
	}
	promote := func(id uint64) error {
		_, err := e.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: id})
		return err
	}
	for name, c := range map[string]struct{ got, want error }{
		"add":                {add(false, "http://x:2380"), rpctypes.ErrGRPCNotCapable},
		"add a learner":      {add(true, "https://x:2380"), rpctypes.ErrGRPCTooManyLearners},
		"add one that is":    {add(false, "http://b:2380"), rpctypes.ErrGRPCPeerURLExist},
		"add nothing":        {add(false), rpctypes.ErrGRPCMemberBadURLs},
		"add without a port": {add(false, "http://x"), rpctypes.ErrGRPCMemberBadURLs},
		"add with a path":    {add(false, "http://x:1/y"), rpctypes.ErrGRPCMemberBadURLs},
		"add another scheme": {add(false, "ftp://x:1"), rpctypes.ErrGRPCMemberBadURLs},
		"remove":             {remove(2), rpctypes.ErrGRPCNotCapable},
		"remove nobody":      {remove(7), rpctypes.ErrGRPCMemberNotFound},
		"update":             {update(2, "http://x:1"), rpctypes.ErrGRPCNotCapable},
		"update to the same": {update(2, "http://b:2380"), nil},
		"update nobody":      {update(7, "http://x:1"), rpctypes.ErrGRPCMemberNotFound},
		"promote":            {promote(2), rpctypes.ErrGRPCMemberNotLearner},
		"promote nobody":     {promote(7), rpctypes.ErrGRPCMemberNotFound},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
}
