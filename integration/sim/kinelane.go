package sim

import (
	"errors"
	"fmt"
	"time"

	"kineshim/failover/decide"
)

const (
	lanePostgres = iota
	laneSync
	laneRaft
)

// lane carries out one action at a time; see failover's lane.
type lane struct {
	job      *job // under way; nil: none
	last     decide.Step
	failures int
	notUntil time.Duration
}

// job is one action under way.
type job struct {
	k          *kine
	lane       int
	step       decide.Step
	cancelled  bool
	onPostgres bool // it fails when PostgreSQL ends
	destroying bool // if it is interrupted, the data are not whole
}

const (
	retryFirst, retryMax = 50 * ms, 5 * time.Second
	againAfter           = 25 * ms
)

func (k *kine) offer(which int, s decide.Step) {
	l := &k.lanes[which]
	if l.job != nil {
		if s.Action != l.job.step.Action && preempts(s.Action, l.job.step.Action) {
			l.job.cancel()
		}
		return
	}
	if s.Action == decide.None {
		return
	}
	if s.Action != l.last.Action || s.Rule != l.last.Rule {
		l.failures, l.notUntil = 0, 0
	}
	if k.now() < l.notUntil {
		return
	}
	if k.w.opt.Trace && (s.Action != l.last.Action || s.Why != l.last.Why || l.failures == 0) {
		k.w.say(k.id, fmt.Sprintf("%s %s%s [%s]", s.Action, s.Command.Kind, s.To, s.Rule), s.Why)
	}
	j := &job{k: k, lane: which, step: s}
	l.job, l.last = j, s
	j.perform()
}

func preempts(wanted, running decide.Action) bool {
	switch running {
	case decide.DisconnectSolo, decide.EnsureSlot, decide.DropStale:
		return wanted == decide.ConnectSolo
	case decide.ProveGating, decide.CommitEpoch, decide.OpenSession, decide.StartEngine, decide.Drain:
		return wanted != decide.None
	case decide.Clone, decide.Rewind, decide.Start, decide.Promote, decide.Freeze, decide.Follow:
		return wanted == decide.Stop
	}
	return false
}

// over: the job is not the one under way any more.
func (j *job) over() bool { return j.k.lanes[j.lane].job != j }

func (j *job) cancel() {
	if j.cancelled {
		return
	}
	j.cancelled = true
	j.k.p.soon(ms, func() { j.finish(errNotNow) })
}

// finish ends the job, once.
func (j *job) finish(err error) {
	if j.over() {
		return
	}
	k := j.k
	l := &k.lanes[j.lane]
	l.job = nil
	if j.destroying {
		k.pg.dir.whole = false
		k.inspect()
	}
	now := k.now()
	switch {
	case err == nil:
		l.failures, l.notUntil = 0, now+againAfter
	case j.cancelled || errors.Is(err, errNotNow):
		l.notUntil = now + retryFirst
	default:
		if l.failures++; l.failures <= 3 {
			k.w.sayf(k.id, "%s is not done: %v", j.step.Action, err)
		}
		l.notUntil = now + min(retryMax, retryFirst<<min(l.failures, 10))
	}
	if j.step.Action == decide.Promote {
		k.promoting = false
	}
	k.wake()
}

// within bounds the job.
func (j *job) within(d time.Duration) {
	j.k.p.after(d, func() {
		if !j.over() {
			j.cancelOp()
			j.finish(errTimeout)
		}
	})
}

// cancelOp is what ends with the context of an action.
func (j *job) cancelOp() {}

// failPending ends the jobs that waited for PostgreSQL.
func (k *kine) failPending(err error) {
	for i := range k.lanes {
		if j := k.lanes[i].job; j != nil && j.onPostgres {
			j.finish(err)
		}
	}
}

// ask has PostgreSQL do something, which takes about d; then hears the result, unless the job is over.
func (j *job) ask(d time.Duration, do func() error, then func(error)) {
	k := j.k
	pg := k.pg
	if !pg.p.up {
		k.p.soon(ms, func() { j.finish(errDown) })
		return
	}
	j.onPostgres = true
	pg.p.after(d/2+k.w.within(d), func() {
		err := errDown
		if !j.cancelled && !j.over() {
			err = do()
		}
		k.p.soon(ms/5, func() {
			if !j.over() {
				then(err)
			}
		})
	})
}

// poll looks every so often until do says that it is so, or fails.
func (j *job) poll(every time.Duration, do func() (bool, error), then func()) {
	j.ask(every, func() error { return nil }, func(err error) {
		if err != nil {
			j.finish(err)
			return
		}
		ok, err := do()
		switch {
		case err != nil:
			j.finish(err)
		case ok:
			then()
		default:
			j.poll(every, do, then)
		}
	})
}
