package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
)

// The load: most workers ask the node that survives, as the k3s beside it does.
const (
	survivorWorkers = 8
	otherWorkers    = 2
	think           = 5 * time.Millisecond
	warmUp          = 700 * time.Millisecond
	coolDown        = 500 * time.Millisecond
	recoverWithin   = 60 * time.Second
	loadAtMost      = 5 * time.Minute
	checkWithin     = time.Minute
)

// roundResult is one line of the results. Times are milliseconds after the blow; 0: did not happen, or not on the new primary.
type roundResult struct {
	Kind     string `json:"kind"`
	Round    int    `json:"round"`
	Primary  string `json:"primary"`
	Survivor string `json:"survivor"`
	// Recovered is false if no write was acknowledged in time; nothing else is then measured.
	Recovered bool               `json:"recovered"`
	FirstMS   float64            `json:"firstWriteMs"`
	PhasesMS  map[string]float64 `json:"phasesMs,omitempty"`
	ArmedMS   float64            `json:"armedMs"`
	Lost      int                `json:"lost"`
	// Violations are all broken promises, lost writes among them.
	Violations  []string `json:"violations,omitempty"`
	ReadErrors  int      `json:"readErrors"`
	WriteErrors int      `json:"writeErrors"`
	Writes      int      `json:"writes"`
}

// measurement is a round under way.
type measurement struct {
	b         *bench
	k         kind
	primary   string
	survivor  string
	rec       *ledger.Recorder
	prefix    string
	clients   map[string]*clientv3.Client
	endpoints map[string]ledger.Endpoint
	from      int64
	blow      time.Time // before the first signal
	struck    time.Time // after the signals
	result    roundResult
}

// runRound does one round: from armed to armed.
func (b *bench) runRound(ctx context.Context, k kind, number int) (roundResult, error) {
	b.round++
	primary, err := b.c.WaitPrimary(ctx)
	if err != nil {
		return roundResult{}, err
	}
	m := &measurement{b: b, k: k, primary: primary, survivor: cluster.Other(primary), prefix: fmt.Sprintf("/registry/bench/%04d/", b.round),
		clients: map[string]*clientv3.Client{}, endpoints: map[string]ledger.Endpoint{}}
	m.result = roundResult{Kind: k.name, Round: number, Primary: m.primary, Survivor: m.survivor}
	if m.rec, err = ledger.NewRecorder(b.recordPath()); err != nil {
		return m.result, err
	}
	defer m.rec.Close()
	for _, node := range cluster.DataNodes {
		c, err := ledger.Dial(b.c.ClientURL(node))
		if err != nil {
			return m.result, err
		}
		defer c.Close()
		m.clients[node], m.endpoints[node] = c, ledger.Endpoint{Name: node, Store: ledger.Etcd{Client: c}}
	}
	return m.result, errors.Join(m.run(ctx), ctx.Err())
}

func (m *measurement) run(ctx context.Context) error {
	loadCtx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	markCtx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	mark, err := m.rec.Mark(markCtx, m.endpoints[m.primary], m.prefix)
	if err != nil {
		return err
	}
	m.from = mark.Revision - 1
	done := make(chan error, 1)
	go func() { done <- m.load().Run(loadCtx) }()
	err = m.strikeAndHeal(ctx)
	stopLoad()
	if err := errors.Join(err, <-done); err != nil {
		return err
	}
	if !m.result.Recovered {
		return nil
	}
	return m.check(ctx)
}

func (m *measurement) load() *ledger.Load {
	var endpoints []ledger.Endpoint
	for range survivorWorkers {
		endpoints = append(endpoints, m.endpoints[m.survivor])
	}
	for range otherWorkers {
		endpoints = append(endpoints, m.endpoints[m.primary])
	}
	return &ledger.Load{Endpoints: endpoints, Recorder: m.rec, Prefix: m.prefix, Workers: len(endpoints), Duration: loadAtMost, Think: think, Seed: uint64(m.b.round)}
}

func (m *measurement) strikeAndHeal(ctx context.Context) error {
	if !wait(ctx, warmUp) {
		return ctx.Err()
	}
	logs := newLogReader(m.b.c)
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

// awaitWrite waits for the write that ends the outage, and notes when it came.
func (m *measurement) awaitWrite(ctx context.Context) {
	after := m.rec.At(m.struck)
	if m.k.lingers {
		wait(ctx, lingerFor-time.Since(m.blow))
		after = m.rec.Now()
	}
	deadline := m.blow.Add(recoverWithin)
	for time.Now().Before(deadline) {
		if e, ok := m.rec.FirstWriteAfter(after, m.survivor); ok {
			m.result.Recovered = true
			m.result.FirstMS = milliseconds(m.rec.Time(e.End).Sub(m.blow))
			if m.k.lingers {
				m.result.FirstMS = m.pauseMS()
			}
			return
		}
		if !wait(ctx, 10*time.Millisecond) {
			return
		}
	}
}

// pauseMS is the end, after the blow, of the longest pause between acknowledged writes; or for some kinds the pause's length.
func (m *measurement) pauseMS() float64 {
	start, length := ledger.PauseAfter(m.rec.Entries(), m.rec.At(m.blow), m.rec.Now(), m.survivor)
	if m.k.pause {
		return milliseconds(length)
	}
	return milliseconds(m.rec.Time(start).Add(length).Sub(m.blow))
}

// check compares the record with the store.
func (m *measurement) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	ep := m.endpoints[m.survivor]
	mark, err := m.rec.Mark(ctx, ep, m.prefix)
	if err != nil {
		return err
	}
	final, err := m.rec.ReadFinal(ctx, ep.Store, m.prefix, 5*time.Second)
	if err != nil {
		return err
	}
	in := ledger.Input{Prefix: m.prefix, Final: final, Entries: m.rec.Entries()}
	history, err := ledger.WatchUntil(ctx, "history", m.clients[m.survivor], m.prefix, m.from, func() int64 { return mark.Revision })
	if err == nil { // a compaction may have taken it; the chains are checked without
		in.Histories = []ledger.History{history}
	}
	for _, v := range ledger.Check(in, ledger.Promises{}) {
		if v.Rule == ledger.LostWrite {
			m.result.Lost++
		}
		m.result.Violations = append(m.result.Violations, v.String())
	}
	s := ledger.Summarise(in.Entries)
	m.result.ReadErrors, m.result.WriteErrors, m.result.Writes = ledger.Errors(s.ReadErrors), ledger.Errors(s.WriteErrors), s.AcknowledgedWrites
	return nil
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
