package failover

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"kineshim/raftwitness/record"
)

// Token stands for the session under which a request began.
type Token struct{ Epoch, Generation uint64 }

func (s Session) token() Token { return Token{s.Epoch, s.Generation} }

// ErrTokenDead: no answer can ever be given again under the token.
var ErrTokenDead = errors.New("the session in which the request began has ended")

// ErrNoLease: this primary has not heard from a majority for so long that another may have been elected.
var ErrNoLease = errors.New("this primary has no contact to a majority")

// ClosedError says why the gate is closed.
type ClosedError struct{ Why string }

func (e ClosedError) Error() string { return e.Why }

// Right is what Raft says of this node's right to answer: the part of a Store that the Gate asks.
type Right interface {
	// Record is the record as applied here, not to be modified, and the log index up to which it is.
	Record() (*record.Record, uint64)
	// LeaseLeft is how long this leader may answer without asking anybody; 0: not at all. It is called on every request.
	LeaseLeft() time.Duration
}

// Gate says whether this node may answer as primary. It is checked after an answer's data have been gathered.
//
// Begin, End, Open and Close are its owner's, who runs the node: an Agent. All methods may be called from any goroutine.
type Gate struct {
	right              Right
	confirmed, pairing *atomic.Bool

	session atomic.Pointer[gateSession]
	// shut is why requests may not begin; nil while they may.
	shut atomic.Pointer[string]
}

// NewGate makes a gate without a session, and closed because the node is starting. The owner sets confirmed once a majority has confirmed the
// record in this process's life, and pairing from before it proposes to pair until it knows the outcome.
func NewGate(right Right, confirmed, pairing *atomic.Bool) *Gate {
	g := &Gate{right: right, confirmed: confirmed, pairing: pairing}
	g.Close("starting")
	return g
}

// gateSession is a session with the means to see that it has ended.
type gateSession struct {
	token    Token
	sentinel interface{ Alive() bool }
}

// Begin sets the session under which requests run from now on.
func (g *Gate) Begin(s Session, sentinel interface{ Alive() bool }) {
	g.session.Store(&gateSession{s.token(), sentinel})
}

// End makes all tokens dead.
func (g *Gate) End(why string) {
	g.Close(why)
	g.session.Store(nil)
}

// Close lets no request begin; those under way may still be answered.
func (g *Gate) Close(why string) { g.shut.Store(&why) }

// Open lets requests begin, if Check allows it.
func (g *Gate) Open() { g.shut.Store(nil) }

func (g *Gate) accepting() bool { return g.shut.Load() == nil }

// Enter returns the token of a request that begins now.
func (g *Gate) Enter() (Token, error) {
	if why := g.shut.Load(); why != nil {
		return Token{}, ClosedError{*why}
	}
	s := g.session.Load()
	if s == nil {
		return Token{}, ClosedError{"PostgreSQL does not serve"}
	}
	if err := g.Check(s.token); err != nil {
		return Token{}, ClosedError{err.Error()}
	}
	return s.token, nil
}

// Closed says why a request that began now would not be let in; "": it would. It is asked live, by the clock.
func (g *Gate) Closed() string {
	if _, err := g.Enter(); err != nil {
		return err.Error()
	}
	return ""
}

// answers says whether a request that began now would be let in, by the clock and not by the last decision.
func (g *Gate) answers() bool {
	_, err := g.Enter()
	return err == nil
}

// holds says whether answers may be given to requests that have begun, whether or not others may begin.
func (g *Gate) holds() bool {
	s := g.session.Load()
	return s != nil && g.Check(s.token) == nil
}

// Check says whether an answer may be given whose data were gathered under the token. It takes about a microsecond.
func (g *Gate) Check(t Token) error {
	s := g.session.Load()
	if s == nil || s.token != t || !s.sentinel.Alive() {
		return ErrTokenDead
	}
	// The order matters. Whoever proposes to pair sets pairing before, and clears it only when the record says paired: a
	// record read after pairing was seen clear says solo only if, at some moment of this call, it was solo for certain.
	pairing := g.pairing.Load()
	r, _ := g.right.Record()
	switch {
	case r.Epoch != t.Epoch:
		return ErrTokenDead
	case r.Solo() && !pairing && g.confirmed.Load():
		return nil
	case g.right.LeaseLeft() > 0:
		return nil
	}
	return ErrNoLease
}

// Over says whether what lasts, like a connection of an application to PostgreSQL, must end that began under the token: the gate is closed, or no
// answer can ever be given again. A lease that has run out is no reason: it may come back.
func (g *Gate) Over(t Token) bool {
	return !g.accepting() || errors.Is(g.Check(t), ErrTokenDead)
}

// waitPoll is how often Wait looks: leases come back with the next heartbeat.
const waitPoll = 5 * time.Millisecond

// Wait returns nil when Check does, and an error when Check never will again or ctx ends.
func (g *Gate) Wait(ctx context.Context, t Token) error {
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	for {
		err := g.Check(t)
		if err == nil || errors.Is(err, ErrTokenDead) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
