package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
	"kineshim/proto"
)

// All orders of starting are tried, one after the other, over the rounds of all runs.
func TestAllKilledAndStartedInAnyOrder(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		order := slices.Clone(cluster.Nodes)
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		pause := time.Duration(rand.IntN(2000)) * time.Millisecond
		t.Logf("starting in the order %v, %s apart", order, pause)
		for _, node := range cluster.Nodes {
			must(t, r.KillNode(node))
		}
		for _, node := range order {
			r.start(t, node)
			l.run(pause)
		}
	})
}

// probes ask a node for everything that it could answer, and say what was answered.
func (l *load) probes(t *testing.T, node string) []string {
	t.Helper()
	store := l.r.endpoint(node).Store
	key := l.prefix + "w00/k00"
	try := func(what string, ask func(ctx context.Context) error) string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := ask(ctx); err != nil {
			return ""
		}
		return what
	}
	answered := []string{
		try("get", func(ctx context.Context) error { _, err := store.Get(ctx, key); return err }),
		try("list", func(ctx context.Context) error { _, err := store.List(ctx, l.prefix, 0); return err }),
		try("create", func(ctx context.Context) error {
			// Refused, if it is answered: so nothing is written behind the ledger's back.
			a, err := store.Write(ctx, ledger.Update, l.prefix+"probe", []byte("x"), 1)
			if err == nil && a.Succeeded {
				return fmt.Errorf("an update of a key that is not there succeeded")
			}
			return err
		}),
	}
	return slices.DeleteFunc(answered, func(s string) bool { return s == "" })
}

// Paired, the primary may not go on without one of the others: they might have gone on without it.
func TestBothOthersLostAtOnceNobodyAnswers(t *testing.T) {
	round := 0
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		standby := cluster.Other(p)
		// Stopped before they are killed, so that no answer of the one can help the primary to leave out the other.
		// The witness first: without it alone the primary waits for ten seconds, without the standby for one.
		must(t, r.FreezeNode(cluster.Witness))
		must(t, r.FreezeNode(standby))
		must(t, r.KillNode(standby))
		must(t, r.KillNode(cluster.Witness))
		l.run(3 * time.Second) // longer than any lease
		silent := l.rec.Now()
		for range 3 {
			if answered := l.probes(t, p); len(answered) > 0 {
				t.Errorf("%s answered %v without a majority", p, answered)
			}
		}
		for _, e := range l.rec.Entries() {
			if e.Start > silent && e.Outcome == ledger.Acknowledged {
				t.Errorf("request %d (%s) was answered through %s without a majority", e.ID, e.Op, e.Endpoint)
				break
			}
		}
		first, second := cluster.Witness, standby
		if round++; round%2 == 0 {
			first, second = second, first
		}
		r.start(t, first)
		l.waitWrite(t, p, failoverWithin)
		if now := r.primary(t); now != p {
			t.Errorf("%s serves, %s was primary", now, p)
		}
		r.start(t, second)
	})
}

func TestStandbyLostThenWitnessLost(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		standby := cluster.Other(p)
		must(t, r.KillNode(standby))
		r.waitMode(t, p, "solo", failoverWithin)
		blow := time.Now()
		must(t, r.KillNode(cluster.Witness))
		l.run(5 * time.Second)
		l.waitWrite(t, p, failoverWithin)
		l.expectStall(t, "witness lost while solo", blow, stallAtMost)
		if now := r.primary(t); now != p {
			t.Errorf("%s serves, %s was primary", now, p)
		}
		r.start(t, cluster.Witness)
		l.run(time.Second)
		r.start(t, standby)
	})
}

// With the witness lost for long the record says solo, so that the standby may be lost too; but the standby still has everything.
func TestWitnessLostForLongThenStandbyLost(t *testing.T) {
	scenario(t, func(t *testing.T, r *rig, l *load) {
		p := r.primary(t)
		standby := cluster.Other(p)
		blow := time.Now()
		must(t, r.KillNode(cluster.Witness))
		r.waitMode(t, p, "solo", witnessGoneWithin)
		t.Logf("solo after %s", time.Since(blow).Round(time.Millisecond))
		l.run(time.Second)
		l.expectStall(t, "witness lost for long", blow, unnoticedAtMost)
		ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
		defer cancel()
		must(t, r.WaitStatus(ctx, p, "status says that the standby has everything", func(s *proto.StatusResponse) string {
			if !cluster.Self(s).GetStandbyGates() {
				return "commits do not wait for the standby"
			}
			return streaming(s, standby)
		}))
		if s, err := r.StatusOf(ctx, p); err != nil || s.GetArmed() {
			t.Errorf("armed without a witness (%v)", err)
		}
		l.expectSynchronous(t, standby)
		blow = time.Now()
		must(t, r.KillNode(standby))
		l.run(4 * time.Second)
		l.waitWrite(t, p, failoverWithin)
		l.expectStall(t, "standby lost after the witness", blow, stallAtMost)
		r.start(t, standby)
		l.run(time.Second)
		r.start(t, cluster.Witness)
	})
}

// streaming says what is amiss with the standby's streaming.
func streaming(s *proto.StatusResponse, standby string) string {
	for _, n := range s.GetNodes() {
		if n.GetName() == standby && !n.GetState().GetStreaming() {
			return standby + " does not stream"
		}
	}
	return ""
}

// holdFor is shorter than the silence after which a primary goes on without its standby.
const holdFor = 600 * time.Millisecond

// expectSynchronous shows that commits wait for the standby: none is acknowledged while its PostgreSQL is held.
func (l *load) expectSynchronous(t *testing.T, standby string) {
	t.Helper()
	held := time.Now()
	must(t, l.r.FreezePostgres(standby))
	l.run(holdFor - time.Since(held))
	gap := l.gapSince(held)
	must(t, l.r.ThawNode(standby))
	if gap < holdFor/2 {
		t.Errorf("writes were acknowledged while the standby was held: longest gap %s of %s", gap, holdFor)
	}
	l.waitWrite(t, "", failoverWithin)
}
