package storm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"kineshim.example/linearizability"
	"kineshim.example/linearizability/workload"
	"kineshim/integration/cluster"
	"kineshim/integration/lab"
)

const (
	// warmUp is how long the load runs before the first blow, and goesOn how long after the cluster is armed again.
	warmUp = 500 * time.Millisecond
	goesOn = 300 * time.Millisecond
	// renewEvery is how long the requests of package linearizability stay with the same keys.
	renewEvery = 3 * time.Second
	// checkFor bounds the search for an order of a burst's requests, and cleanWithin the removal of its keys.
	checkFor    = time.Minute
	cleanWithin = 30 * time.Second
	// patience is longer than a node lets requests wait for a primary.
	patience = 15 * time.Second
	think    = 25 * time.Millisecond
)

// crowd are the clients: on each node one that waits long, as API servers do, and an impatient one; one that asks both; and some that ask the virtual
// address from a machine of their own.
func crowd() []workload.Habits {
	var out []workload.Habits
	for _, node := range cluster.DataNodes {
		out = append(out,
			workload.Habits{Nodes: []string{node}, Timeout: patience, Think: think, Reads: 40, Pairs: 8},
			workload.Habits{Nodes: []string{node}, Timeout: 400 * time.Millisecond, Think: think, Reads: 70, Pairs: 8})
	}
	return append(out,
		workload.Habits{Nodes: cluster.DataNodes, Timeout: 2 * time.Second, Think: think, Reads: 50, Pairs: 8},
		workload.Habits{Nodes: []string{lab.VIP}, Timeout: 2 * time.Second, Think: think, Reads: 50, Pairs: 8},
		workload.Habits{Nodes: []string{lab.VIP}, Timeout: 500 * time.Millisecond, Think: think, Reads: 80, Pairs: 8})
}

// round is one burst under way.
type round struct {
	rig    *lab.Rig
	number int
	burst  Burst
	seed   uint64
	tell   func(format string, args ...any)
	out    string
	// breaking breaks a promise before the blows; nil: nothing is broken.
	breaking func(context.Context, *round) error

	ledger  *lab.Ledger
	session *linearizability.Session
	vip     *vipWatch
	// from is the epoch at its beginning.
	from  uint64
	wrong []string
	// epochs is how many began, revision the last one.
	epochs   int
	revision int64
}

func (r *round) failf(format string, args ...any) {
	f := fmt.Sprintf(format, args...)
	r.wrong = append(r.wrong, f)
	r.tell("WRONG %s", f)
}

// run does the burst and checks what follows. An error means that the burst could not be carried out, or not be checked; that may be the cluster's fault too.
func (r *round) run(ctx context.Context) error {
	if err := r.start(ctx); err != nil {
		return fmt.Errorf("before the burst: %w", err)
	}
	defer r.session.Close()
	defer r.ledger.Abandon() // nothing, if it was checked to its end
	r.vip = watchVIP(r.rig)
	defer r.vip.stop()
	renewing, stopRenewing := context.WithCancel(ctx)
	defer stopRenewing()
	go r.renew(renewing)
	x := newStriker(ctx, r.rig, r.session, r.tell)
	pause(ctx, warmUp)
	x.role()
	if r.breaking != nil {
		if err := r.breaking(ctx, r); err != nil {
			return err
		}
	}
	err := x.run(r.burst)
	if err != nil {
		x.asked.Wait()
		return err
	}
	wrong, err := x.heal()
	r.wrong = append(r.wrong, wrong...)
	if err != nil {
		return err
	}
	return r.check(ctx)
}

// prefix begins the keys of package linearizability's requests.
func (r *round) prefix() string { return fmt.Sprintf("/registry/storm/%04d/", r.number) }

func (r *round) start(ctx context.Context) error {
	arming, cancel := context.WithTimeout(ctx, armedWithin)
	defer cancel()
	err := r.rig.WaitArmed(arming)
	if err != nil {
		return err
	}
	if r.from, err = r.epoch(ctx); err != nil {
		return err
	}
	if r.ledger, err = r.rig.StartLedger(ctx, r.number); err != nil {
		return err
	}
	r.session, err = linearizability.StartSession(ctx, linearizability.SessionConfig{
		Prefix: r.prefix(), Seed: r.seed + uint64(r.number), Crowd: crowd(), CheckFor: checkFor, Out: filepath.Join(r.out, "requests"),
		Log: func(format string, args ...any) { r.tell("("+format+")", args...) },
		Dial: func(node string) (*grpc.ClientConn, error) {
			return workload.Dial(r.rig.Target(node), r.rig.Dialer(node))
		}})
	if err != nil {
		r.ledger.Abandon()
		return err
	}
	if from := r.session.From(); from <= r.revision {
		r.failf("the first write of the burst has revision %d, after one of revision %d", from, r.revision)
	}
	return nil
}

func (r *round) renew(ctx context.Context) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			r.session.Renew()
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// epoch is the record's, as the primary knows it.
func (r *round) epoch(ctx context.Context) (uint64, error) {
	p := r.rig.Primary(ctx)
	if p == "" {
		return 0, errors.New("nobody serves")
	}
	s, err := r.rig.StatusOf(ctx, p)
	return s.GetEpoch(), err
}

// check ends the load and checks everything.
func (r *round) check(ctx context.Context) error {
	recovered := len(r.wrong) == 0
	if recovered {
		r.answers(ctx)
		pause(ctx, goesOn)
	}
	if err := r.ledger.Halt(); err != nil {
		return err
	}
	r.session.Halt()
	r.gates(ctx)
	stats := r.ledger.Stats()
	r.tell("ledger: %s", stats)
	if most := pauseAtMost(r.burst); most > 0 && stats.LongestGap > most {
		r.failf("no write was acknowledged for %s, though only one thing had failed: at most %s is bearable", seconds(stats.LongestGap), most)
	}
	if stats.AcknowledgedWrites == 0 {
		r.failf("the ledger's load has written nothing, so that nothing is tried")
	}
	for _, f := range r.ledger.Check(ctx) {
		r.failf("%s", f)
	}
	found, err := r.session.Finish(ctx, recovered)
	for _, v := range found {
		r.failf("%s", v)
	}
	if err != nil {
		r.failf("the answers could not be checked: %v", err)
	}
	if len(r.wrong) > 0 {
		return r.session.Keep(found)
	}
	return errors.Join(r.ledger.Forget(), r.clean(ctx))
}

// onePauseAtMost bounds the time without an acknowledged write, on any node, while one thing is broken and the machine's cores are shared with others.
// Most failures take a second; a PostgreSQL that hangs is found by a probe after three.
const onePauseAtMost = 15 * time.Second

// pauseAtMost is how long nobody may be answered in a burst; 0: for as long as it lasts, because the failure matrix allows it for two failures at once,
// for those of all hosts, and for links that come and go.
func pauseAtMost(b Burst) time.Duration {
	if len(b) != 1 || b[0].Target == everything || b[0].Target == bothData || b[0].Kind == "flap" || b[0].Kind == "lose-packets" {
		return 0
	}
	return onePauseAtMost
}

// answers sees to it that an armed cluster answers everybody.
func (r *round) answers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, writesWithin)
	defer cancel()
	for _, endpoint := range []string{cluster.A, cluster.B, lab.VIP} {
		if err := r.ledger.Writes(ctx, endpoint); err != nil {
			r.failf("the cluster is armed, and within %s %v", writesWithin, err)
		}
	}
}

// epochsOf is how many epochs a blow and its end may bring at most: one when it strikes, one when it ends, and for each a switchover because the new primary is the
// worse one. More is a role that flaps. epochsOfLong is for those in which the network comes and goes.
const (
	epochsOf     = 4
	epochsOfLong = 10
)

// foundAtMost bounds what is told of two primaries: one pair would else be told for each time they are asked.
const foundAtMost = 5

// gates checks that there never were two primaries, that the virtual address was where the gate was open, and that the role did not flap.
func (r *round) gates(ctx context.Context) {
	found, seen := r.ledger.Gates()
	for i, f := range found {
		if i < foundAtMost {
			r.failf("two primaries: %s", f)
		}
	}
	for _, f := range r.vip.stop() {
		r.failf("%s", f)
	}
	now, err := r.epoch(ctx)
	if err != nil {
		return // told already: it is not armed
	}
	r.epochs = int(now - r.from)
	most := epochsOf
	for _, b := range r.burst {
		most += epochsOf
		if b.Kind == "flap" || b.Kind == "lose-packets" {
			most += epochsOfLong
		}
	}
	r.tell("%d epochs began; primaries by epoch: %v", r.epochs, seen)
	if now < r.from {
		r.failf("the epoch went from %d to %d", r.from, now)
	} else if r.epochs > most {
		r.failf("%d epochs began, at most %d make sense: the role flaps", r.epochs, most)
	}
}

// clean removes the burst's keys, and what the store remembers of them, so that a long run does not fill the disks.
func (r *round) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanWithin)
	defer cancel()
	c := r.rig.Client(lab.VIP)
	for _, prefix := range []string{r.ledger.Prefix(), r.prefix()} {
		resp, err := c.Delete(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return fmt.Errorf("remove the keys of the burst: %w", err)
		}
		r.revision = resp.Header.Revision
	}
	if _, err := c.Compact(ctx, r.revision); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}
