package native

import (
	"log/slog"
	"testing"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/auth"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/metadata"
)

// guarded is access control with a user root, whose password is p.
func guarded(t *testing.T) *auth.State {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("p"), bcrypt.MinCost)
	s := auth.New()
	for _, change := range []func() (*auth.State, error){
		func() (*auth.State, error) { return s.AddRole("root") },
		func() (*auth.State, error) { return s.AddUser(&pb.AuthUserAddRequest{Name: "root"}, hash) },
		func() (*auth.State, error) { return s.GrantRole("root", "root") },
		func() (*auth.State, error) { return s.Enable(make([]byte, 32)) },
	} {
		if err == nil {
			s, err = change()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Tokens end by the clock of the primary, which makes them, on the standby too.
func TestTokensEndByThePrimarysClock(t *testing.T) {
	s := guarded(t)
	k := newKeyspace(Config{CacheBytes: 1 << 20}, slog.New(slog.DiscardHandler))
	k.access.Store(s)
	r := &Replica{}
	r.copy.Store(k)
	const behind = -10 * time.Minute // the primary's clock
	token, err := s.Authenticate("root", "p", time.Now().Add(behind))
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.TokenFieldNameGRPC, token))
	ask := func(at kineshim.AccessPoint) error { return r.Permit(ctx, &pb.RangeRequest{Key: []byte("k")}, at) }
	if err := ask(kineshim.AccessPoint{Version: s.Version()}); err != rpctypes.ErrGRPCInvalidAuthToken {
		t.Errorf("by this node's clock: %v", err)
	}
	if err := ask(kineshim.AccessPoint{Version: s.Version(), Clock: behind}); err != nil {
		t.Errorf("by the primary's: %v", err)
	}
	if err := ask(kineshim.AccessPoint{}); err != nil {
		t.Errorf("the primary is not asked each time: %v", err)
	}
	if err := k.permitWatch(ctx, &pb.WatchCreateRequest{Key: []byte("k")}); err != nil {
		t.Errorf("a watch: %v", err)
	}
	if err := ask(kineshim.AccessPoint{Version: s.Version(), Clock: behind + auth.TokenLife}); err != rpctypes.ErrGRPCInvalidAuthToken {
		t.Errorf("after its end: %v", err)
	}
}

// A client cannot show another token on a stream: what was good when it began is good as long as the user is who he was.
func TestATokenIsGoodForAsLongAsItsStreamLasts(t *testing.T) {
	s := guarded(t)
	k := newKeyspace(Config{CacheBytes: 1 << 20}, slog.New(slog.DiscardHandler))
	k.access.Store(s)
	began := time.Now().Add(-time.Hour)
	token, err := s.Authenticate("root", "p", began)
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.TokenFieldNameGRPC, token))
	watch := &pb.WatchCreateRequest{Key: []byte("k")}
	if err := k.permitWatch(ctx, watch); err != rpctypes.ErrGRPCInvalidAuthToken {
		t.Errorf("a call: %v", err)
	}
	stream := kineshim.StreamSince(ctx, began.Add(time.Minute))
	if err := k.permitWatch(stream, watch); err != nil {
		t.Errorf("on its stream: %v", err)
	}
	if err := k.permitWatch(kineshim.StreamSince(ctx, began.Add(auth.TokenLife)), watch); err != rpctypes.ErrGRPCInvalidAuthToken {
		t.Errorf("on a stream that began after its end: %v", err)
	}
	changed, err := s.ChangePassword("root", []byte("another"))
	if err != nil {
		t.Fatal(err)
	}
	k.access.Store(changed)
	if err := k.permitWatch(stream, watch); err != rpctypes.ErrGRPCInvalidAuthToken {
		t.Errorf("after the user got another password: %v", err)
	}
}
