package failover

import (
	"context"
	"fmt"
	"time"

	"kineshim/failover/decide"
	pb "kineshim/proto"
)

// wish is what operators asked for. Agent.mu guards it.
type wish struct {
	// switchTo is whom to hand the role to, until switchUntil.
	switchTo    string
	switchUntil time.Time
	drained     bool
	// unableSince is since when the other node could not take over; zero: it can.
	unableSince time.Time
	// force is until when a forced promotion of this node is tried; zero: not.
	force time.Time
	// replace is the member that an operator has enrolled anew at the moment: nobody is paired meanwhile. "": none.
	replace string
	// leaving: this process is about to end. stopping: and it starts nothing any more.
	leaving, stopping bool
}

const (
	// switchTimeout gives a switchover up, so that a cluster is never without a primary for longer than that.
	switchTimeout = 10 * time.Second
	// unableTimeout gives a switchover up whose target cannot take over any more.
	unableTimeout = time.Second
	// forceTimeout bounds a forced promotion.
	forceTimeout = 30 * time.Second
	// wishPoll is how often a request looks whether it has come true.
	wishPoll = 10 * time.Millisecond
)

func (w *wish) input() decide.Wish {
	return decide.Wish{SwitchTo: w.switchTo, Drained: w.drained, Force: time.Now().Before(w.force), Stopping: w.stopping, Replace: w.replace}
}

// expireWish ends a switchover that has come true or to nothing. a.mu is held.
func (a *Agent) expireWish(in *decide.Input) {
	w := &a.wish
	if w.switchTo == "" {
		return
	}
	now := time.Now()
	switch {
	case in.CanHandOver():
		w.unableSince = time.Time{}
	case w.unableSince.IsZero():
		w.unableSince = now
	}
	mine := in.Record.Primary == a.cfg.Self
	if mine && now.Before(w.switchUntil) && since(now, w.unableSince) < unableTimeout {
		return
	}
	if mine {
		a.log.Warn("the switchover came to nothing: this node goes on as primary", "to", w.switchTo)
	}
	w.switchTo, w.drained, w.unableSince = "", false, time.Time{}
}

// switchover hands the primary role to the named node, and returns when that node answers clients or why it does not.
func (a *Agent) switchover(ctx context.Context, to string) (*pb.PromoteResponse, error) {
	began := time.Now()
	refuse := func(format string, args ...any) (*pb.PromoteResponse, error) {
		return &pb.PromoteResponse{Reason: fmt.Sprintf(format, args...)}, nil
	}
	a.mu.Lock()
	in := a.input()
	switch {
	case in.Record.Primary == to:
		a.mu.Unlock()
		return refuse("%s is the primary already", to)
	case to != a.cfg.Other || in.Record.Primary != a.cfg.Self:
		a.mu.Unlock()
		return refuse("%s is not the standby of %s", to, a.cfg.Self)
	case !in.Record.Paired():
		why := decide.NotArmed(&in)
		a.mu.Unlock()
		return refuse("%s may lack acknowledged writes: %s. Wait until shimctl status says armed", to, join(why))
	case a.wish.switchTo != "":
		a.mu.Unlock()
		return refuse("a switchover to %s is under way", a.wish.switchTo)
	}
	a.log.Info("switchover begins", "to", to) // before the gate, which closes as soon as it is known
	a.wish.switchTo, a.wish.switchUntil, a.wish.drained = to, began.Add(switchTimeout), false
	epoch := in.Record.Epoch
	a.mu.Unlock()
	a.wake()
	for {
		if !pause(ctx, wishPoll) {
			return nil, ctx.Err()
		}
		rec, _ := a.store.Record()
		a.mu.Lock()
		open := a.peer.state != nil && a.peer.state.GateOpen && a.peer.state.Epoch > epoch
		over := a.wish.switchTo == ""
		a.mu.Unlock()
		switch {
		case rec.Primary == to && open:
			return &pb.PromoteResponse{Done: true, Epoch: rec.Epoch, TookMs: time.Since(began).Milliseconds()}, nil
		case rec.Primary == a.cfg.Self && over:
			return refuse("%s has not taken over; %s goes on as primary. shimctl status and the logs of both say why", to, a.cfg.Self)
		case time.Since(began) > 3*switchTimeout:
			return nil, begun("%s took the role over, and does not serve yet", to)
		}
	}
}

func join(ss []string) string {
	out := ""
	for i, s := range ss {
		if i > 0 {
			out += "; "
		}
		out += s
	}
	return out
}

// switching: a switchover from this node is under way.
func (a *Agent) switching() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wish.switchTo != ""
}

// Leave prepares the end of this process: a primary hands its role over, if somebody can take it. It returns when that is
// done, or cannot be, or ctx ends.
func (a *Agent) Leave(ctx context.Context) {
	rec, _ := a.store.Record()
	for rec.Primary == a.cfg.Self && a.switching() && pause(ctx, wishPoll) { // one that is under way is as good
		rec, _ = a.store.Record()
	}
	if rec.Primary == a.cfg.Self && rec.Paired() {
		if r, err := a.switchover(ctx, a.cfg.Other); err != nil || !r.Done {
			reason := ""
			if r != nil {
				reason = r.Reason
			}
			a.log.Warn("stopping without a switchover", "why", reason, "error", err)
		}
	}
	a.mu.Lock()
	a.wish.leaving, a.wish.stopping = true, true
	a.mu.Unlock()
	a.wake()
	tell, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	a.exchangeOnce(tell)
}
