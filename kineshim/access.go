package kineshim

import (
	"context"
	"crypto/x509"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Metadata of a forwarded call, in the other node's word: commonNameKey is the name in the certificate that the caller has shown there, operatorKey says
// that he came by its control socket. A client's own are dropped. A name may be any text, which -bin is for.
const (
	commonNameKey = "kineshim-common-name-bin"
	operatorKey   = "kineshim-operator"
)

// nodesWords are what only the other node may say.
var nodesWords = []string{commonNameKey, operatorKey, tlsKey, ageKey}

// Credentials are what a caller says of himself.
type Credentials struct {
	// Token is the one that he was given; "": none. It counts before the certificate, as in etcd.
	Token string
	// CommonName is the name in his certificate, which was verified; Certified: there is one.
	CommonName string
	Certified  bool
	// Operator: he came by the control socket, which is the operating system's to protect. He may do everything.
	Operator bool
	// Since is when a stream began; zero: it is a call. A token has to be good when a stream begins, and may end while that lasts.
	Since time.Time
}

// sinceKey is the context's key of Credentials.Since.
type sinceKey struct{}

// streamAge is how old a stream was when the other node has forwarded it; 0: it begins here.
func streamAge(ctx context.Context) time.Duration {
	v := metadata.ValueFromIncomingContext(ctx, ageKey)
	if len(v) == 0 || !wasForwarded(ctx) {
		return 0
	}
	ms, err := strconv.ParseInt(v[0], 10, 64)
	if err != nil || ms < 0 {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// StreamSince is the context of a stream that began then.
func StreamSince(ctx context.Context, began time.Time) context.Context {
	return context.WithValue(ctx, sinceKey{}, began)
}

// CredentialsOf are those of the caller of a context.
func CredentialsOf(ctx context.Context) Credentials {
	var c Credentials
	md, _ := metadata.FromIncomingContext(ctx)
	for _, key := range []string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if v := md.Get(key); len(v) > 0 {
			c.Token = strings.TrimPrefix(v[0], "Bearer ")
			break
		}
	}
	if v := md.Get(commonNameKey); len(v) > 0 {
		c.CommonName, c.Certified = v[0], true
	}
	c.Operator = len(md.Get(operatorKey)) > 0
	c.Since, _ = ctx.Value(sinceKey{}).(time.Time)
	p, ok := peer.FromContext(ctx)
	if !ok || wasForwarded(ctx) { // what is known of the connection is the other node's
		return c
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		c.CommonName, c.Certified = commonName(info.State.VerifiedChains)
	}
	return c
}

// OverTLS says whether the client has asked by TLS, at whichever node.
func OverTLS(ctx context.Context) bool {
	if wasForwarded(ctx) { // what is known of the connection is the other node's
		return len(metadata.ValueFromIncomingContext(ctx, tlsKey)) > 0
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	_, ok = p.AuthInfo.(credentials.TLSInfo)
	return ok
}

func commonName(chains [][]*x509.Certificate) (name string, ok bool) {
	for _, chain := range chains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName, true
		}
	}
	return "", false
}

// passOn tells the node that a call is forwarded to what only this one can know. The token is among the client's own metadata.
func (c Credentials) passOn(md metadata.MD) {
	if c.Certified {
		md.Set(commonNameKey, c.CommonName)
	}
	if c.Operator {
		md.Set(operatorKey, "true")
	}
}

// ownWords leaves out of a client's metadata what only the other node may say. As a rule there is nothing of it, and ctx is returned.
func ownWords(ctx context.Context) context.Context {
	own := func(key string) bool { return len(metadata.ValueFromIncomingContext(ctx, key)) > 0 }
	if !slices.ContainsFunc(nodesWords, own) {
		return ctx
	}
	md, _ := metadata.FromIncomingContext(ctx) // a copy
	for _, key := range nodesWords {
		md.Delete(key)
	}
	return metadata.NewIncomingContext(ctx, md)
}

// asOperator is the context of a call at the control socket.
func asOperator(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx) // a copy
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(operatorKey, "true")
	return metadata.NewIncomingContext(ctx, md)
}

// strippedStream is a stream with another context.
type strippedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the other context.
func (s *strippedStream) Context() context.Context { return s.ctx }

// Request is a client's unary request on its way to an AccessEngine. It belongs to the goroutine of the request.
type Request struct {
	Message any
	// Checked is set by the engine when it has asked, in the order of all changes, whether the request is permitted.
	Checked bool
}

// requestKey is the context key of a *Request.
type requestKey struct{}

// RequestOf returns the request that a context carries to an engine, nil if none.
func RequestOf(ctx context.Context) *Request {
	r, ok := ctx.Value(requestKey{}).(*Request)
	if !ok || r.Message == nil {
		return nil
	}
	return r
}

// permitted does what a request asks for if its caller may ask for that. What the engine has done in an order with the changes of access control, it
// has checked there. What it has only read may have been written after the caller was permitted to, for others than him: he must be so still.
func permitted[R any](ctx context.Context, engine AccessEngine, req any, do func() (R, error)) (R, error) {
	var none R
	if err := engine.Permit(ctx, req); err != nil {
		return none, forbidden(ctx, err)
	}
	r, _ := ctx.Value(requestKey{}).(*Request)
	if r != nil {
		*r = Request{Message: req}
	}
	response, err := do()
	if err != nil || r != nil && r.Checked {
		return response, err
	}
	if err := engine.Permit(ctx, req); err != nil {
		return none, forbidden(ctx, err)
	}
	return response, nil
}

// forbidden is why a request is refused. What an attempt before may have done, its caller may have been permitted to then.
func forbidden(ctx context.Context, err error) error {
	if a, ok := AttemptOf(ctx); ok && a.Again {
		return InDoubt(status.Convert(err).Message())
	}
	return err
}
