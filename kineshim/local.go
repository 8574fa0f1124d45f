package kineshim

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// enter asks the gate for a token and finds the engine of that token's session.
func (e *Endpoint) enter() (Token, *session, error) {
	token, err := e.opt.Gate.Enter()
	if err != nil {
		return Token{}, nil, Unavailable(err.Error())
	}
	s := e.current.Load()
	if s == nil {
		return Token{}, nil, Unavailable(errNoEngine.Error())
	}
	if token.Epoch != s.Epoch || token.Generation != s.Generation {
		return Token{}, nil, Unavailable(errOtherSession.Error())
	}
	return token, s, nil
}

// outcome is what an engine call came to.
type outcome struct {
	response any
	err      error
}

// answer runs a unary call in the local engine. The order is the rule: enter, gather, check, answer. Errors are answers too: a
// compare failure or a compacted revision is checked like data.
func (e *Endpoint) answer(ctx context.Context, c *call) (any, error) {
	token, s, err := e.enter()
	if err != nil {
		return nil, err
	}
	if c.epoch != 0 && c.epoch != token.Epoch {
		return nil, Unavailable(errOtherEpoch.Error())
	}
	if err := s.beginCall(); err != nil {
		return nil, err
	}
	c.session, c.ranIn = s, s.Epoch
	c.header, c.trailer = nil, nil
	if s.inline {
		return e.answerInline(ctx, c, s, token)
	}
	handler, req := c.handler, c.req
	callCtx, cancel := callContext(ctx, c, s)
	done := make(chan outcome, 1)
	go func() {
		defer s.endCall()
		defer cancel()
		// Replaced below unless the engine ends this goroutine, as kine does on what it calls fatal.
		result := outcome{err: InDoubt(errEngineBroken.Error())}
		defer func() { done <- result }()
		response, err := handler(callCtx, req)
		result = outcome{response, err}
	}()
	var result outcome
	select {
	case result = <-done:
	case <-ctx.Done():
		// The client has gone. What it wrote is written or not, in the goroutine that the session owns.
		return nil, contextError(ctx.Err())
	}
	return e.checked(ctx, c, token, result)
}

// answerInline runs a call of an InlineEngine.
func (e *Endpoint) answerInline(ctx context.Context, c *call, s *session, token Token) (any, error) {
	defer s.endCall()
	callCtx := ctx
	if _, ends := ctx.Deadline(); !ends && c.kind != reads { // a read waits for nothing that the session's end does not end
		var cancel context.CancelFunc
		callCtx, cancel = context.WithTimeout(ctx, callBound)
		defer cancel()
	}
	response, err := c.handler(withEngine(clientAuthority(callCtx), s.engine, c.attempt), c.req)
	return e.checked(ctx, c, token, outcome{response, err})
}

// checked is the answer if it may be given.
func (e *Endpoint) checked(ctx context.Context, c *call, token Token, result outcome) (any, error) {
	var err error
	if result.err != nil {
		err = answerError(ctx, result.err, c.kind != reads)
	}
	if closed := e.opt.Gate.Check(token); closed != nil && !e.passes(ctx, c, token, err) {
		if status.Code(err) == codes.Unavailable {
			return nil, err
		}
		why := errTokenDead.Error() + " before the answer could be given: " + closed.Error()
		if c.kind == reads {
			return nil, Unavailable(why)
		}
		return nil, InDoubt(why)
	}
	if err != nil {
		return nil, err
	}
	e.fillHeader(result.response)
	return result.response, nil
}

// passes waits until an answer that the gate does not let out may be given. It never may once the session has ended, and is not waited for if
// it is a read's, which is as well done again, or none.
func (e *Endpoint) passes(ctx context.Context, c *call, token Token, err error) bool {
	if c.kind == reads || status.Code(err) == codes.Unavailable || ctx.Err() != nil {
		return false
	}
	gate, s := e.opt.Gate, c.session
	if e.room.wait(ctx, &c.visit, func(place) bool { return gate.Check(token) == nil || s.ctx.Err() != nil }) != nil {
		return false
	}
	return gate.Check(token) == nil
}

// callContext is the context of an engine call: a write's is not ended by its client, a read's is also ended by the session.
func callContext(ctx context.Context, c *call, s *session) (context.Context, context.CancelFunc) {
	write := c.kind != reads
	if write {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, callBound)
	unhook := func() bool { return true }
	if !write {
		unhook = context.AfterFunc(s.ctx, cancel)
	}
	return withEngine(clientAuthority(ctx), s.engine, c.attempt), func() { unhook(); cancel() }
}

// answerError maps an engine's error. The engine's context can have ended without the client's: by its bound, or with the
// session; that is not the client's doing, and a write's outcome is not known then.
func answerError(ctx context.Context, err error, write bool) error {
	if ctx.Err() != nil {
		return contextError(ctx.Err())
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		const why = "the engine was stopped, or took too long"
		if write {
			return InDoubt(why)
		}
		return Unavailable(why)
	}
	return engineError(err)
}

// fillHeader puts the cluster's, the member's and the Raft term's numbers into a response's header, if it has one.
func (e *Endpoint) fillHeader(response any) {
	with, ok := response.(interface {
		GetHeader() *etcdserverpb.ResponseHeader
	})
	if !ok || e.opt.HeaderInfo == nil {
		return
	}
	header := with.GetHeader()
	if header == nil {
		return
	}
	info := e.opt.HeaderInfo()
	if info.ClusterID != 0 {
		header.ClusterId = info.ClusterID
	}
	if info.MemberID != 0 {
		header.MemberId = info.MemberID
	}
	if info.RaftTerm != 0 {
		header.RaftTerm = info.RaftTerm
	}
}
