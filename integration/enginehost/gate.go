package enginehost

import (
	"context"
	"sync"

	"kineshim/kineshim"
)

// Gate is the host's gate. It is open with one token until a test says otherwise. Its methods may be called from any
// goroutine.
type Gate struct {
	mu      sync.Mutex // guards the fields below
	token   kineshim.Token
	why     string // not empty: closed
	changed chan struct{}
}

func newGate() *Gate {
	return &Gate{token: kineshim.Token{Epoch: 1, Generation: 1}, changed: make(chan struct{})}
}

func (g *Gate) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	close(g.changed)
	g.changed = make(chan struct{})
}

// Shut lets nothing in and nothing out until Open; why, which is not empty, is shown to clients. The session lives on:
// after Open its answers may be given.
func (g *Gate) Shut(why string) { g.change(func() { g.why = why }) }

// Open ends what Shut began.
func (g *Gate) Open() { g.change(func() { g.why = "" }) }

// Kill ends the session: no answer can be given any more under its token. The engine goes on running, but it belongs to no
// session that can begin: RestartEngine starts one that does.
func (g *Gate) Kill() {
	g.change(func() { g.token = kineshim.Token{Epoch: g.token.Epoch + 1, Generation: g.token.Generation} })
}

func (g *Gate) current() kineshim.Token {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.token
}

// state is what holds for a token now; changed is closed when that may be otherwise.
func (g *Gate) state(t kineshim.Token) (changed <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case t != g.token:
		return g.changed, kineshim.ErrTokenDead
	case g.why != "":
		return g.changed, &kineshim.ClosedError{Why: g.why}
	}
	return g.changed, nil
}

// Enter is the Gate's of package kineshim.
func (g *Gate) Enter() (kineshim.Token, error) {
	t := g.current()
	_, err := g.state(t)
	return t, err
}

// Check is the Gate's of package kineshim.
func (g *Gate) Check(t kineshim.Token) error {
	_, err := g.state(t)
	return err
}

// Wait is the Gate's of package kineshim.
func (g *Gate) Wait(ctx context.Context, t kineshim.Token) error {
	for {
		changed, err := g.state(t)
		if err == nil || err == kineshim.ErrTokenDead {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
