package raftwitness

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kineshim/raftwitness/record"
)

// bubble is three real voters, with hashicorp/raft, in virtual time and over a network in memory. What happens to them is by the seed; the
// order in which goroutines run within one moment is not.
type bubble struct {
	t     *testing.T
	rng   *rand.Rand
	net   *memNet
	ids   map[string]Identity
	nodes map[string]*bubbleNode
	begun time.Time
	wg    sync.WaitGroup

	mu sync.Mutex // guards the fields below
	// applied is the record, as JSON, by the log index at which a voter has had it first.
	applied map[uint64]string
	// done are the marks of the proposals that were answered with success.
	done  []string
	marks int
}

type bubbleNode struct {
	cfg      Config
	listener *Listener
	node     atomic.Pointer[Node] // nil while it is down
	cancel   context.CancelFunc
	ended    chan struct{}
	led      atomic.Uint64
}

// inMemoryDir is on a file system without a disk if there is one: a bubble's time stands still during fsync, the test's does not.
func inMemoryDir(t *testing.T) string {
	t.Helper()
	const shm = "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "kineshim-bubble-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const bubblePromise = 300 * time.Millisecond

func newBubble(t *testing.T, seed uint64, dir string) *bubble {
	b := &bubble{t: t, rng: rand.New(rand.NewPCG(seed, 4)), net: newMemNet(seed), nodes: map[string]*bubbleNode{}, begun: time.Now(), applied: map[uint64]string{}}
	b.ids = identities(bubblePromise, map[string]string{"a": "a", "b": "b", "w": "w"})
	for _, name := range voters {
		n := &bubbleNode{}
		rate := 1 + (2*b.rng.Float64()-1)*0.17 // within what the lease allows for
		n.cfg = Config{
			Dir: filepath.Join(dir, name), Identity: b.ids[name], Dial: b.net.dialer(name), Log: testLog(name),
			OnLead: func(term uint64) { n.led.Store(max(n.led.Load(), term)) },
			Clock:  func() time.Duration { return time.Duration(float64(time.Since(b.begun))*rate) + time.Hour },
		}
		b.nodes[name] = n
		b.start(name)
	}
	return b
}

func (b *bubble) start(name string) {
	n := b.nodes[name]
	if n.node.Load() != nil {
		return
	}
	n.listener = NewListener(b.net.listen(name), testLog(name))
	n.cfg.Listener = n.listener
	node, err := Open(n.cfg)
	if err != nil {
		b.t.Fatalf("open %s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.ended = cancel, make(chan struct{})
	n.led.Store(0)
	n.node.Store(node)
	go func() {
		defer close(n.ended)
		node.Run(ctx)
	}()
}

// stop ends a voter as a kill does: its connections end first, mute without a word. news: its deathwatch tells the others, late.
func (b *bubble) stop(name string, mute, news bool) {
	n := b.nodes[name]
	if n.node.Load() == nil {
		return
	}
	n.node.Store(nil) // nobody asks it any more
	b.net.crash(name, mute)
	n.listener.ln.Close()
	n.cancel()
	<-n.ended
	n.listener.Close()
	if term := n.led.Load(); news && term > 0 {
		late := time.Duration(b.rng.Int64N(int64(3 * bubblePromise)))
		for _, to := range voters {
			if to == name {
				continue
			}
			b.wg.Go(func() {
				time.Sleep(late)
				p, _ := b.ids[name].PeerByName(to)
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				(&group{id: b.ids[name]}).tell(ctx, b.net.dialer(name), p, term)
			})
		}
	}
}

// look checks what must hold at every moment.
func (b *bubble) look() error {
	var holder string
	for _, name := range voters {
		node := b.nodes[name].node.Load()
		if node == nil {
			continue
		}
		if node.LeaseLeft() > 0 {
			if holder != "" {
				return fmt.Errorf("%s and %s have a lease", holder, name)
			}
			holder = name
		}
		r, index := node.Record()
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		b.mu.Lock()
		was, known := b.applied[index]
		if !known {
			b.applied[index] = string(text)
		}
		b.mu.Unlock()
		if known && was != string(text) {
			return fmt.Errorf("two records at index %d: %s and, on %s, %s", index, was, name, text)
		}
	}
	return nil
}

// propose has whoever leads change the record, and remembers what was promised.
func (b *bubble) propose() {
	b.mu.Lock()
	b.marks++
	mark := strconv.Itoa(b.marks)
	b.mu.Unlock()
	for _, name := range []string{"a", "b"} {
		node := b.nodes[name].node.Load()
		if node == nil || !node.Status().Leader {
			continue
		}
		r, _ := node.Record()
		c := record.Command{Kind: record.Pause, Epoch: r.Epoch, By: name, Why: mark}
		switch {
		case !r.Initialised():
			c = record.Command{Kind: record.Init, By: "a", Node: "a", ClusterID: "c", SystemID: 7, Members: b.ids["a"].Members(), Why: mark}
		case r.Paused:
			c.Kind = record.Resume
		}
		b.wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if node.Propose(ctx, c) == nil {
				b.mu.Lock()
				b.done = append(b.done, mark)
				b.mu.Unlock()
			}
		})
		return
	}
}

// disturb does one bad thing.
func (b *bubble) disturb() {
	x := voters[b.rng.IntN(3)]
	y := voters[b.rng.IntN(3)]
	switch b.rng.IntN(12) {
	case 0, 1:
		b.stop(x, b.rng.IntN(2) == 0, b.rng.IntN(2) == 0)
	case 2, 3:
		for _, name := range voters {
			b.start(name)
		}
	case 4:
		b.net.set(x, y, true)
	case 5:
		b.cut(x, y)
	case 6:
		for _, from := range voters {
			for _, to := range voters {
				b.net.set(from, to, false)
			}
		}
		b.net.setSlow([]time.Duration{time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond}[b.rng.IntN(3)])
	case 7: // a restart that takes no time
		b.stop(x, false, b.rng.IntN(2) == 0)
		b.start(x)
	case 8, 9:
		b.isolate(x)
	case 10: // the data nodes are cut from each other, and the witness forgets what it has promised
		b.heal()
		b.cut("a", "b")
		b.lives(bubblePromise + time.Duration(b.rng.Int64N(int64(bubblePromise))))
		b.stop("w", false, false)
		b.start("w")
	default:
		to := voters[b.rng.IntN(3)]
		if node := b.nodes[x].node.Load(); node != nil && to != x && node.Status().Leader {
			b.wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				node.HandOver(ctx, to)
			})
		}
	}
}

func (b *bubble) cut(x, y string) {
	b.net.set(x, y, true)
	b.net.set(y, x, true)
}

func (b *bubble) isolate(x string) {
	for _, y := range voters {
		if y != x {
			b.cut(x, y)
		}
	}
}

func (b *bubble) heal() {
	for _, from := range voters {
		b.start(from)
		for _, to := range voters {
			b.net.set(from, to, false)
		}
	}
	b.net.setSlow(time.Millisecond)
}

// lives goes on for d, looking all the time.
func (b *bubble) lives(d time.Duration) {
	const every = 2 * time.Millisecond
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(every) {
		if err := b.look(); err != nil {
			b.t.Fatalf("after %v: %v", time.Since(b.begun), err)
		}
	}
}

// electedWithin bounds the time from the healing to a data node that leads with a lease: some elections, and the witness's hand-over.
const electedWithin = 20 * bubblePromise

func (b *bubble) run(steps int) {
	for range steps {
		b.disturb()
		b.propose()
		b.lives(time.Duration(b.rng.Int64N(int64(4 * bubblePromise))))
	}
	b.heal()
	healed := time.Now()
	leads := func() *Node {
		for _, name := range []string{"a", "b"} {
			if n := b.nodes[name].node.Load(); n != nil && n.LeaseLeft() > 0 {
				return n
			}
		}
		return nil
	}
	for leads() == nil {
		if time.Since(healed) > electedWithin {
			b.t.Fatalf("no data node leads with a lease %v after all has healed", electedWithin)
		}
		b.lives(10 * time.Millisecond)
	}
	b.t.Logf("elected %v after all has healed", time.Since(healed))
	b.wg.Wait() // who waits for an answer gets it within its time
	b.lives(time.Second)
	b.wantAll(leads())
	for _, name := range voters {
		b.stop(name, false, false)
	}
}

// wantAll checks that nothing is lost that was answered with success.
func (b *bubble) wantAll(n *Node) {
	if n == nil {
		b.t.Fatal("nobody leads any more, though nothing disturbs")
	}
	r, _ := n.Record()
	have := map[string]bool{}
	for _, e := range r.History {
		have[e.Why] = true
	}
	for _, mark := range b.done {
		if !have[mark] {
			b.t.Errorf("change %s was answered with success and is lost", mark)
		}
	}
	b.t.Logf("%d of %d changes were answered with success, %d log entries", len(b.done), b.marks, len(b.applied))
}

// Three real voters, crashed, cut off, delayed and restarted: at no moment have two of them a lease, nothing is lost that was committed, and
// once all has healed a data node leads within a bound.
func TestRealVotersInVirtualTime(t *testing.T) {
	seeds, first := 8, uint64(1)
	if s := os.Getenv("BUBBLE_SEED"); s != "" { // replay: the same failures, if not the same order of goroutines
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds, first = 1, n
	}
	if s := os.Getenv("BUBBLE_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	for i := range seeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			dir := inMemoryDir(t)
			synctest.Test(t, func(t *testing.T) { newBubble(t, seed, dir).run(60) })
		})
	}
}
