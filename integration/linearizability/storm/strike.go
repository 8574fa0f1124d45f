package storm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"kineshim.example/linearizability/workload"
	"kineshim/integration/cluster"
	"kineshim/integration/lab"
	"kineshim/integration/lab/site"
)

const (
	// restartAfter is how long a process that ended by itself stays away, as systemd's RestartSec has it.
	restartAfter = time.Second
	// lookEvery is the pace at which ended processes are looked for.
	lookEvery = 100 * time.Millisecond
	// askWithin bounds an operator's request.
	askWithin = 30 * time.Second
)

// errSkipped: there is nothing to strike at, or it would break what must not break.
var errSkipped = errors.New("skipped")

func skip(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errSkipped, fmt.Sprintf(format, args...))
}

// striker makes blows happen. It is used by one goroutine.
type striker struct {
	ctx   context.Context
	rig   *lab.Rig
	lives *workload.Lives
	tell  func(format string, args ...any)
	renew func()

	began time.Time
	// down is how many blows keep a node's processes from being started.
	down map[string]int
	// ended is when a node was first seen to have ended by itself.
	ended map[string]time.Time
	// disks are the blows that have struck each host's disk.
	disks map[string]int
	// cuts are those of the blows that last.
	cuts map[*site.Cut]site.Cut
	// wiped: in this burst, some data have been destroyed.
	wiped bool
	// paused: an operator has suspended automatic failover.
	paused bool
	// primary is who served last, for blows at times when nobody does.
	primary string
	// later are undoings and parts of blows that wait for their time.
	later []event
	// asked are operators' requests under way.
	asked sync.WaitGroup
}

// event is something to do at a time since the burst's beginning.
type event struct {
	at   time.Duration
	what string
	do   func() error
}

func newStriker(ctx context.Context, rig *lab.Rig, s sessions, tell func(string, ...any)) *striker {
	return &striker{ctx: ctx, rig: rig, lives: s.Lives(), renew: s.Renew, tell: tell, down: map[string]int{}, ended: map[string]time.Time{}, disks: map[string]int{},
		cuts: map[*site.Cut]site.Cut{}}
}

// sessions is what the striker tells of what it does.
type sessions interface {
	Lives() *workload.Lives
	Renew()
}

// run does the burst, undoings included. An error means that the plan could not be carried out.
func (x *striker) run(burst Burst) error {
	x.began = time.Now()
	for _, b := range burst {
		x.later = append(x.later, event{b.At, "BLOW " + b.String(), func() error { return x.strike(b) }})
	}
	for len(x.later) > 0 {
		next := slices.MinFunc(x.later, func(a, b event) int { return int(min(max(a.at-b.at, -1), 1)) })
		if now := time.Since(x.began); now < next.at {
			if err := x.wait(min(next.at-now, lookEvery)); err != nil {
				return err
			}
			continue
		}
		i := slices.IndexFunc(x.later, func(e event) bool { return e.at == next.at && e.what == next.what })
		x.later = slices.Delete(x.later, i, i+1)
		if next.what != "" { // else it goes on with what was told before
			x.renew()
			x.tell("%s", next.what)
		}
		if err := next.do(); err != nil {
			return fmt.Errorf("%s: %w", next.what, err)
		}
	}
	return nil
}

// wait lets time pass, and starts what ended by itself.
func (x *striker) wait(d time.Duration) error {
	select {
	case <-x.ctx.Done():
		return x.ctx.Err()
	case <-time.After(d):
	}
	return x.supervise()
}

// strike does a blow, and plans its undoing.
func (x *striker) strike(b Blow) error {
	undo, err := kindOf(b.Kind).strike(x, b)
	if errors.Is(err, errSkipped) {
		x.tell("     %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	if undo != nil {
		x.later = append(x.later, event{time.Since(x.began) + b.For, "HEAL " + b.Kind + " " + b.Target, undo})
	}
	return nil
}

// supervise starts processes that have ended by themselves, as systemd does.
func (x *striker) supervise() error {
	for _, node := range cluster.Nodes {
		if x.rig.Running(node) || x.down[node] > 0 {
			delete(x.ended, node)
			continue
		}
		if at, seen := x.ended[node]; !seen {
			x.ended[node] = time.Now()
			x.tell("%s has ended by itself", node)
		} else if time.Since(at) >= restartAfter {
			delete(x.ended, node)
			x.tell("%s is started again", node)
			if err := x.begin(node); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepDown says that a node's processes are about to be ended, and must not be started until release is called as often.
func (x *striker) keepDown(node string) {
	x.down[node]++
	x.lives.End(node)
}

// release starts a node, unless another blow keeps it down.
func (x *striker) release(node string) error {
	x.down[node]--
	switch {
	case x.down[node] > 0:
		return nil
	case x.rig.Running(node): // it has survived the blow
		x.lives.Begin(node)
		return nil
	}
	return x.begin(node)
}

func (x *striker) begin(node string) error {
	x.lives.Begin(node)
	return x.rig.Start(x.ctx, node)
}

// role finds out who serves.
func (x *striker) role() string {
	if p := x.rig.Primary(x.ctx); p != "" {
		x.primary = p
	}
	if x.primary == "" {
		x.primary = cluster.A
	}
	return x.primary
}

// host is the node that a word means.
func (x *striker) host(word string) (string, error) {
	switch word {
	case primary:
		return x.role(), nil
	case standby:
		return cluster.Other(x.role()), nil
	case witness:
		return cluster.Witness, nil
	}
	if slices.Contains(cluster.Nodes, word) {
		return word, nil
	}
	return "", fmt.Errorf("%w: no host is called %q", ErrPlan, word)
}

// hosts are the nodes that a word means.
func (x *striker) hosts(word string) ([]string, error) {
	switch word {
	case everything:
		return cluster.Nodes, nil
	case bothData:
		return cluster.DataNodes, nil
	}
	host, err := x.host(word)
	return []string{host}, err
}

// link is the cuts that a word means: x-y both directions, x>y one.
func (x *striker) link(word string) ([]site.Cut, error) {
	for _, sep := range []string{"-", ">"} {
		from, to, ok := strings.Cut(word, sep)
		if !ok {
			continue
		}
		h, err1 := x.host(from)
		g, err2 := x.host(to)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if sep == ">" {
			return []site.Cut{{From: h, To: g}}, nil
		}
		return site.Both(h, g), nil
	}
	return nil, fmt.Errorf("%w: no link is called %q", ErrPlan, word)
}
