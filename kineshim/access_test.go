package kineshim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// certified is a context of a caller who has shown a certificate.
func certified(ctx context.Context, name string) context.Context {
	chains := [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: name}}}}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: chains}}})
}

func TestCredentials(t *testing.T) {
	incoming := func(kv ...string) context.Context {
		return metadata.NewIncomingContext(t.Context(), metadata.Pairs(kv...))
	}
	lies := []string{commonNameKey, "root", operatorKey, "true"}
	for name, c := range map[string]struct {
		ctx  context.Context
		want Credentials
	}{
		"nothing":                  {fromClients.context(t.Context()), Credentials{}},
		"a token":                  {fromClients.context(incoming("token", "x")), Credentials{Token: "x"}},
		"a bearer's token":         {fromClients.context(incoming("authorization", "Bearer x")), Credentials{Token: "x"}},
		"a certificate":            {fromClients.context(certified(incoming("a", "b"), "alice")), Credentials{CommonName: "alice", Certified: true}},
		"a client that lies":       {fromClients.context(certified(incoming(lies...), "alice")), Credentials{CommonName: "alice", Certified: true}},
		"one that was forwarded":   {fromPeer.context(certified(incoming(append(lies[:2:2], forwardedKey, "b")...), "node b")), Credentials{CommonName: "root", Certified: true}},
		"forwarded, anonymous":     {fromPeer.context(certified(incoming(forwardedKey, "b"), "node b")), Credentials{}},
		"a client that pretends":   {fromClients.context(certified(incoming(append(lies, forwardedKey, "b")...), "alice")), Credentials{}},
		"the operator":             {fromOperator.context(t.Context()), Credentials{Operator: true}},
		"the operator, forwarded":  {fromPeer.context(incoming(operatorKey, "true", forwardedKey, "b")), Credentials{Operator: true}},
		"an operator with a token": {fromOperator.context(incoming("token", "x")), Credentials{Token: "x", Operator: true}},
	} {
		if got := CredentialsOf(c.ctx); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	md := metadata.MD{}
	Credentials{CommonName: "älice", Certified: true, Operator: true}.passOn(md)
	if got := CredentialsOf(metadata.NewIncomingContext(t.Context(), md)); got.CommonName != "älice" || !got.Certified || !got.Operator {
		t.Errorf("passed on: %+v", got)
	}
}

func TestTLSIsThatOfTheClient(t *testing.T) {
	tls := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{}})
	forwarded := func(kv ...string) context.Context {
		return metadata.NewIncomingContext(tls, metadata.Pairs(append(kv, forwardedKey, "b")...))
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		want bool
	}{
		"plain": {t.Context(), false}, "TLS": {tls, true}, "plain, forwarded by TLS": {forwarded(), false}, "TLS, forwarded": {forwarded(tlsKey, "true"), true},
	} {
		if got := OverTLS(c.ctx); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// strict is an engine that permits what its function does.
type strict struct {
	AccessEngine
	permit func() error
	// checks: the engine asks by itself when it does what is asked for.
	checks bool
	done   int
}

func (s *strict) Permit(context.Context, any) error { return s.permit() }

func (s *strict) Put(ctx context.Context, _ *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	s.done++
	if r := RequestOf(ctx); s.checks && r != nil {
		r.Checked = true
	}
	return &etcdserverpb.PutResponse{}, nil
}

func TestARequestIsPermittedBeforeAndAfter(t *testing.T) {
	denied := Unavailable("denied")
	answers := func(errs ...error) func() error {
		return func() error {
			err := errs[0]
			errs = errs[1:]
			return err
		}
	}
	for name, c := range map[string]struct {
		engine  *strict
		attempt Attempt
		want    codes.Code
		done    int
	}{
		"permitted":                {&strict{permit: answers(nil, nil)}, Attempt{}, codes.OK, 1},
		"not permitted":            {&strict{permit: answers(denied)}, Attempt{}, codes.Unavailable, 0},
		"not any more":             {&strict{permit: answers(nil, denied)}, Attempt{}, codes.Unavailable, 1},
		"checked when it was done": {&strict{permit: answers(nil), checks: true}, Attempt{ID: 1}, codes.OK, 1},
		"may have been done":       {&strict{permit: answers(denied)}, Attempt{ID: 1, Again: true}, codes.Unavailable, 0},
	} {
		_, err := services{}.Put(withEngine(t.Context(), c.engine, c.attempt), &etcdserverpb.PutRequest{})
		wantCode(t, err, c.want, "")
		if c.engine.done != c.done {
			t.Errorf("%s: done %d times", name, c.engine.done)
		}
		if again := c.attempt.Again; again != doubtful(err) {
			t.Errorf("%s: %v: in doubt: %v", name, err, doubtful(err))
		}
	}
}
