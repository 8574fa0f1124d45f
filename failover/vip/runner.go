package vip

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"kineshim/quiet"
)

// Runner keeps all VIPs of a node. Make it with New, then call Run once.
type Runner struct {
	cfg     Config
	log     *slog.Logger
	keepers []*keeperLoop
}

// keeperLoop is a keeper with what reaches it from other goroutines.
type keeperLoop struct {
	keeper
	wake   chan struct{} // of size 1
	claims chan Claim
	links  chan Link
}

// heardBound is how many claims or link changes may wait for a keeper. It takes them at once as a rule, and what is lost comes again.
const heardBound = 32

// linksAgain is the pause before interfaces are watched again, after the kernel has ended it.
const linksAgain = time.Second

// New checks the configuration and starts nothing.
func New(cfg Config) (*Runner, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Runner{cfg: cfg, log: cfg.Log}
	for _, v := range cfg.VIPs {
		addr := v.Address.Addr()
		log := cfg.Log.With("vip", addr.String())
		l := &keeperLoop{wake: make(chan struct{}, 1), claims: make(chan Claim, heardBound), links: make(chan Link, heardBound)}
		l.keeper = keeper{
			vip: v, role: cfg.Role, host: cfg.Host, hook: newHook(&r.cfg, v, log), log: log, hear: l.heard,
			peerMACs: func() []string { return nil }, cut: func() {},
			status: Status{Address: v.Address, HookOnly: v.HookOnly}, said: quiet.New(quiet.Often),
		}
		if cfg.PeerMACs != nil {
			l.peerMACs = func() []string { return cfg.PeerMACs(addr) }
		}
		if cfg.Connections != nil {
			l.cut = func() { cfg.Connections.Cut(addr) }
		}
		r.keepers = append(r.keepers, l)
	}
	return r, nil
}

// Run keeps the addresses until ctx ends; then it takes them away. It returns nil.
func (r *Runner) Run(ctx context.Context) error {
	var all, watching sync.WaitGroup
	hooks, stopHooks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHooks()
	for _, k := range r.keepers {
		all.Go(func() { k.run(ctx) })
		watching.Go(func() { k.hook.run(hooks) })
	}
	watching.Go(func() { r.watchLinks(ctx) })
	for ctx.Err() == nil {
		select {
		case <-r.cfg.Role.Changed():
			for _, k := range r.keepers {
				k.poke()
			}
		case <-ctx.Done():
		}
	}
	all.Wait() // the addresses are gone: now the hooks may take their time
	stopHooks()
	watching.Wait()
	return nil
}

// Status is that of each VIP, in the configuration's order.
func (r *Runner) Status() []Status {
	var out []Status
	for _, k := range r.keepers {
		k.mu.Lock()
		out = append(out, k.status)
		k.mu.Unlock()
	}
	return out
}

// Held says whether the address is on this node, by this process.
func (r *Runner) Held(addr netip.Addr) bool {
	for _, s := range r.Status() {
		if s.Address.Addr() == addr {
			return s.Held
		}
	}
	return false
}

func (r *Runner) watchLinks(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.cfg.Host.Links(ctx, func(l Link) {
			for _, k := range r.keepers {
				offer(k.links, l)
			}
		})
		if ctx.Err() != nil {
			return
		}
		r.log.Warn("changes of interfaces are not seen for a moment", "error", err)
		select {
		case <-time.After(linksAgain):
		case <-ctx.Done():
		}
	}
}

func (l *keeperLoop) poke() { offer(l.wake, struct{}{}) }

func (l *keeperLoop) heard(c Claim) { offer(l.claims, c) }

// offer drops what does not fit.
func offer[T any](to chan T, v T) {
	select {
	case to <- v:
	default:
	}
}

func (l *keeperLoop) run(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for ctx.Err() == nil {
		select {
		case c := <-l.claims:
			l.claimed(time.Now(), c)
		case k := <-l.links:
			l.linkChanged(time.Now(), k)
		case <-l.wake:
		case <-t.C:
		case <-ctx.Done():
			continue
		}
		t.Reset(l.step(time.Now()))
	}
	l.end(time.Now())
}
