package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
)

const (
	think         = 5 * time.Millisecond
	renewEvery    = 50 * time.Millisecond
	requestWithin = 10 * time.Second // each request's own deadline, as long as kube-apiserver's clients wait
	warmUp        = 700 * time.Millisecond
	coolDown      = 500 * time.Millisecond
	recoverWithin = 60 * time.Second
	loadAtMost    = 5 * time.Minute // of a round
	checkWithin   = time.Minute
)

// roundResult is one line of the results. Times are milliseconds after the blow; 0: did not happen, or not on the new primary.
type roundResult struct {
	Kind     string `json:"kind"`
	Round    int    `json:"round"`
	Keys     int    `json:"keys,omitempty"` // that were there before the load
	Primary  string `json:"primary"`
	Survivor string `json:"survivor"`
	// Recovered is false if no write was acknowledged in time; nothing else is then measured.
	Recovered bool `json:"recovered"`
	// FirstMS is that of the clients of the node that is left.
	FirstMS  float64            `json:"firstWriteMs"`
	PhasesMS map[string]float64 `json:"phasesMs,omitempty"`
	ArmedMS  float64            `json:"armedMs"`
	Lost     int                `json:"lost"`
	// Violations are all broken promises, lost writes among them.
	Violations []string `json:"violations,omitempty"`
	// ReadErrors, WriteErrors and Writes are those of all clients, from the round's beginning.
	ReadErrors  int `json:"readErrors"`
	WriteErrors int `json:"writeErrors"`
	Writes      int `json:"writes"`
	// Clients are by kind of client, Watches by that whose node they are at.
	Clients map[string]clientResult `json:"clients,omitempty"`
	Watches map[string]watchResult  `json:"watches,omitempty"`
	// WatchesUnchecked says why watches were compared with nothing.
	WatchesUnchecked string `json:"watchesUnchecked,omitempty"`
}

// measurement is a round under way.
type measurement struct {
	b        *bench
	k        kind
	primary  string
	survivor string
	rec      *ledger.Recorder
	prefix   string
	clients  clients
	watches  watches
	live     liveHistory
	from     int64
	longest  time.Duration             // bounds the load
	blow     time.Time                 // before the first signal
	struck   time.Time                 // after the signals
	known    time.Duration             // after the blow: the loss was noticed
	until    int64                     // pauses are looked for until then
	end      int64                     // the load has ended
	before   map[string]failedAttempts // the blow
	result   roundResult
}

// runRound does one round: from armed to armed.
func (b *bench) runRound(ctx context.Context, k kind, number int) (roundResult, error) {
	m, err := b.newMeasurement(ctx, k, loadAtMost)
	if err != nil {
		return roundResult{}, err
	}
	defer m.close()
	m.result.Round = number
	return m.result, errors.Join(m.run(ctx, m.strikeAndHeal), ctx.Err())
}

// newMeasurement connects the clients of a measurement whose load lasts so long at most.
func (b *bench) newMeasurement(ctx context.Context, k kind, longest time.Duration) (*measurement, error) {
	b.round++
	primary, err := b.c.WaitPrimary(ctx)
	if err != nil {
		return nil, err
	}
	m := &measurement{b: b, k: k, longest: longest, primary: primary, survivor: cluster.Other(primary), prefix: fmt.Sprintf("/registry/bench/%04d/", b.round)}
	m.result = roundResult{Kind: k.name, Keys: b.keys, Primary: m.primary, Survivor: m.survivor}
	if m.rec, err = ledger.NewRecorder(b.recordPath()); err != nil {
		return nil, err
	}
	if m.clients, err = dialClients(b.c, m.survivor, m.primary); err != nil {
		return nil, errors.Join(err, m.rec.Close())
	}
	return m, nil
}

func (m *measurement) close() {
	_ = m.clients.close() // they are not needed any more
	_ = m.rec.Close()
}

// run has clients work and watch while something is done to the cluster, and checks what they were told.
func (m *measurement) run(ctx context.Context, do func(context.Context) error) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	watchCtx, stopWatching := context.WithCancel(ctx)
	defer m.live.wait()
	defer stopWatching()
	defer m.watches.close()
	m.live.start(watchCtx, m.clients[clientBoth].Client, m.prefix, m.from, m.longest+checkWithin)
	if err := m.watches.open(watchCtx, m.b.c, m.watched(), m.prefix, m.from); err != nil {
		return err
	}
	loadCtx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	done := make(chan error, 1)
	go func() { done <- m.load().Run(loadCtx) }()
	err := do(ctx)
	stopLoad()
	if err := errors.Join(err, <-done); err != nil {
		return err
	}
	m.end = m.rec.Now()
	if !m.result.Recovered {
		return nil
	}
	return m.check(ctx)
}

// begin writes the first key of the round, from which on everything is watched.
func (m *measurement) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	mark, err := m.rec.Mark(ctx, m.clients.endpoint(clientStruck), m.prefix)
	m.from = mark.Revision - 1
	return err
}

// watched are the nodes at which streams are to go on through the blow.
func (m *measurement) watched() map[string]string {
	nodes := map[string]string{clientSurvivor: m.survivor}
	if m.k.lives {
		nodes[clientStruck] = m.primary
	}
	return nodes
}

func (m *measurement) load() *ledger.Load {
	l := &ledger.Load{Recorder: m.rec, Prefix: m.prefix, Duration: m.longest, Timeout: requestWithin, Think: think, RenewEvery: renewEvery, Seed: uint64(m.b.round)}
	for _, name := range clientNames {
		ep := m.clients.endpoint(name)
		for range workersOf[name] {
			l.Endpoints = append(l.Endpoints, ep)
		}
		l.Renewers = append(l.Renewers, ep)
	}
	l.Workers = len(l.Endpoints)
	return l
}

func (m *measurement) strikeAndHeal(ctx context.Context) error {
	if !wait(ctx, warmUp) {
		return ctx.Err()
	}
	logs := newLogReader(m.b.c)
	m.before = m.clients.failedSoFar()
	strikeCtx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	var err error
	m.blow, m.struck, err = m.b.c.Blow(func() error { return m.k.strike(strikeCtx, m.b.c, m.primary) })
	if err != nil {
		return fmt.Errorf("%s: %w", m.k.name, err)
	}
	m.awaitWrite(ctx)
	if !m.result.Recovered {
		return nil
	}
	m.result.PhasesMS = logs.phases(m.survivor, m.blow)
	m.known = logs.detected(m.blow)
	if err := m.k.heal(ctx, m.b.c, m.primary); err != nil {
		return err
	}
	armCtx, cancel := context.WithTimeout(ctx, armWithin)
	defer cancel()
	if err := m.b.c.WaitArmed(armCtx); err != nil {
		m.b.keep = true
		return err
	}
	m.result.ArmedMS = milliseconds(time.Since(m.blow))
	wait(ctx, coolDown)
	return nil
}

// awaitWrite waits for the write of a client of the node that is left which ends the outage.
func (m *measurement) awaitWrite(ctx context.Context) {
	after := m.rec.At(m.struck)
	if m.k.lingers {
		wait(ctx, lingerFor-time.Since(m.blow))
		after = m.rec.Now()
	}
	deadline := m.blow.Add(recoverWithin)
	for time.Now().Before(deadline) {
		if _, ok := m.rec.FirstWriteAfter(after, clientSurvivor); ok {
			m.result.Recovered, m.until = true, m.rec.Now()
			return
		}
		if !wait(ctx, 10*time.Millisecond) {
			return
		}
	}
}

func (m *measurement) span() span {
	return span{blow: m.rec.At(m.blow), struck: m.rec.At(m.struck), known: m.rec.At(m.blow.Add(m.known)), until: m.until, end: m.end, kind: m.k}
}

// check compares the record with the store, and the watches with its history.
func (m *measurement) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	ep := m.clients.endpoint(clientSurvivor)
	mark, err := m.rec.Mark(ctx, ep, m.prefix)
	if err != nil {
		return err
	}
	m.watches.await(ctx, mark.Revision)
	m.watches.close()
	final, err := m.rec.ReadFinal(ctx, ep.Store, m.prefix, requestWithin)
	if err != nil {
		return err
	}
	in := ledger.Input{Prefix: m.prefix, Final: final, Entries: m.rec.Entries()}
	in.Histories = m.histories(ctx, mark.Revision)
	for _, v := range ledger.Check(in, promises) {
		if v.Rule == ledger.LostWrite {
			m.result.Lost++
		}
		m.result.Violations = append(m.result.Violations, v.String())
	}
	s := ledger.Summarise(in.Entries)
	m.result.ReadErrors, m.result.WriteErrors, m.result.Writes = ledger.Errors(s.ReadErrors), ledger.Errors(s.WriteErrors), s.AcknowledgedWrites
	m.sumUp(in, mark.Revision)
	return nil
}

// promises are those of the native engine, but for the header's term: both nodes answer, so a term has more than one member.
var promises = ledger.Promises{HeaderRevision: true, ExactDelete: true}

// histories are what a watch from the round's beginning shows now, and what one has shown all along that was resumed when it broke off. The first may have
// been compacted away.
func (m *measurement) histories(ctx context.Context, mark int64) []ledger.History {
	var out []ledger.History
	h, err := ledger.WatchUntil(ctx, "history read afterwards", m.clients[clientSurvivor].Client, m.prefix, m.from, func() int64 { return mark })
	if err == nil {
		out = append(out, h)
	}
	live, liveErr := m.live.end(mark)
	if liveErr == nil {
		out = append(out, live)
	}
	if len(out) == 0 {
		m.result.WatchesUnchecked = errors.Join(err, liveErr).Error()
	}
	return out
}

// sumUp measures what clients and watches met.
func (m *measurement) sumUp(in ledger.Input, mark int64) {
	var events []ledger.Event
	if len(in.Histories) > 0 {
		events = in.Histories[0].Events
		m.result.Watches = m.watches.check(events, m.from, mark)
	}
	for at, w := range m.result.Watches {
		if broken := w.broken(); broken != "" {
			m.result.Violations = append(m.result.Violations, fmt.Sprintf("watches at the node of client %s: %s", at, broken))
		}
	}
	s, stored, after := m.span(), storedNonces(events), m.clients.failedSoFar()
	m.result.Clients = map[string]clientResult{}
	for _, name := range clientNames {
		r := s.measure(in.Entries, name, stored)
		r.ReadAttempts, r.WriteAttempts = after[name].reads-m.before[name].reads, after[name].writes-m.before[name].writes
		m.result.Clients[name] = r
	}
	m.result.FirstMS = m.result.Clients[clientSurvivor].FirstMS
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// wait waits, and says whether it was not broken off.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
