package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tail is a call of Follow and what it has sent.
type tail struct {
	t      *testing.T
	end    context.CancelFunc
	result chan error
	// hold, if not nil, is received from by every call of send before it returns; fail is what send returns.
	hold chan struct{}
	fail error

	mu    sync.Mutex
	pages []Followed
}

// follow calls Follow, and waits until nothing happens any more.
func (r *rig) follow(after int64, hold chan struct{}, fail error) *tail {
	ctx, cancel := context.WithCancel(context.Background())
	f := &tail{t: r.t, end: cancel, result: make(chan error, 1), hold: hold, fail: fail}
	go func() {
		f.result <- r.hub.Follow(ctx, after, f.send)
		cancel()
	}()
	synctest.Wait()
	return f
}

func (f *tail) send(p Followed) error {
	f.mu.Lock()
	f.pages = append(f.pages, p)
	f.mu.Unlock()
	if f.hold != nil {
		<-f.hold
	}
	return f.fail
}

// got is what has been sent and was not looked at yet.
func (f *tail) got() []Followed {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	pages := f.pages
	f.pages = nil
	return pages
}

// want compares what has been sent: each page is the revisions of its commits, "@", and its revision.
func (f *tail) want(texts ...string) {
	f.t.Helper()
	shown := []string{}
	for _, p := range f.got() {
		text := ""
		for _, c := range p.Commits {
			text += fmt.Sprintf("%d ", c.Revision)
		}
		shown = append(shown, fmt.Sprintf("%s@%d", text, p.Revision))
	}
	if !reflect.DeepEqual(shown, append([]string{}, texts...)) {
		f.t.Fatalf("sent:\n  %s\nwant:\n  %s", lines(shown), lines(texts))
	}
}

func TestFollowerIsToldWhereItStandsAndThenEachCommit(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		f := r.follow(1, nil, nil)
		f.want("@1")
		r.publish(put("a", "1"))
		r.publish(put("a", "2"), del("b"))
		f.want("2 @2", "3 @3")
		r.hub.Publish([]Commit{r.store.commit(put("a", "3")), r.store.commit(del("a"))}, 5)
		f.want("4 5 @5")
		r.hub.Publish(nil, 7) // revisions without commits
		f.want("@7")
		r.hub.Publish(nil, 7)
		f.want()
		g := r.follow(3, nil, nil)
		g.want("4 5 @7")
		f.end()
		g.end()
		if err := <-f.result; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestFollowerGetsCommitsAsTheyWerePublished(t *testing.T) {
	within(t, Config{RingBytes: 2000}, func(r *rig) {
		r.publish(put("a", "1"), put("b", "1"))
		r.publish(put("a", "2"), del("b"), put("c", "2"))
		for range 20 {
			r.publish(put("d", strings.Repeat("v", 100)))
		}
		f := r.follow(1, nil, nil)
		var all []Commit
		for _, p := range f.got() {
			all = append(all, p.Commits...)
		}
		if r.store.asked() == 0 {
			t.Error("all was in the ring")
		}
		if !reflect.DeepEqual(all, r.store.commits) {
			t.Errorf("sent:\n%+v\nwant:\n%+v", all, r.store.commits)
		}
		f.end()
	})
}

func TestFollowerMayBeAheadOfWhatIsPublished(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		f := r.follow(3, nil, nil)
		f.want("@1")
		r.publish(put("a", "1"))
		f.want("@2")
		r.hub.Publish([]Commit{r.store.commit(put("a", "2")), r.store.commit(put("a", "3")), r.store.commit(put("a", "4"))}, 5)
		f.want("4 5 @5")
		f.end()
	})
}

func TestWhatIsPublishedWhileAFollowerSendsIsSentTogether(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		hold := make(chan struct{})
		f := r.follow(1, hold, nil)
		for range 3 {
			r.publish(put("a", "v"))
		}
		f.want("@1")
		hold <- struct{}{}
		f.want("2 3 4 @4")
		close(hold)
		f.want()
		f.end()
	})
}

func TestFollowersPagesAreBounded(t *testing.T) {
	for name, ring := range map[string]int{"from the ring": 0, "from history": 1} {
		t.Run(name, func(t *testing.T) {
			within(t, Config{RingBytes: ring}, func(r *rig) {
				small, large := 2*followCommits+7, 9
				for i := range small {
					r.hub.Publish([]Commit{r.store.commit(put("a", fmt.Sprint(i)))}, r.store.revision)
				}
				for range large {
					r.hub.Publish([]Commit{r.store.commit(put("a", strings.Repeat("v", followBytes/4)))}, r.store.revision)
				}
				f := r.follow(1, nil, nil)
				next := int64(2)
				pages := f.got()
				for _, p := range pages {
					bytes, last := 0, 0
					for _, c := range p.Commits {
						last = c.Events[0].size()
						bytes += last
						if c.Revision != next {
							t.Fatalf("revision %d, want %d", c.Revision, next)
						}
						next++
					}
					if len(p.Commits) > followCommits || bytes-last >= followBytes {
						t.Errorf("a page of %d commits, %d bytes", len(p.Commits), bytes)
					}
					if p.Revision != next-1 {
						t.Errorf("a page up to revision %d says %d", next-1, p.Revision)
					}
				}
				if next != r.store.revision+1 || len(pages) < 5 {
					t.Errorf("sent up to %d in %d pages, want %d", next-1, len(pages), r.store.revision)
				}
				f.end()
			})
		})
	}
}

func TestSlowFollowerReadsOnFromHistory(t *testing.T) {
	within(t, Config{RingBytes: 2000}, func(r *rig) {
		hold := make(chan struct{})
		f := r.follow(1, hold, nil)
		for range 50 {
			r.publish(put("a", "v"))
		}
		close(hold)
		next := int64(2)
		for _, p := range f.got() {
			for _, c := range p.Commits {
				if c.Revision != next {
					t.Fatalf("revision %d, want %d", c.Revision, next)
				}
				next++
			}
		}
		if next != 52 || r.store.asked() == 0 {
			t.Errorf("sent up to %d, %d pages of history", next-1, r.store.asked())
		}
		f.end()
	})
}

func TestFollowEndsWhereHistoryIsCompacted(t *testing.T) {
	within(t, Config{RingBytes: 2000}, func(r *rig) {
		for range 50 {
			r.publish(put("a", "v"))
		}
		first := r.hub.ring.first
		r.store.compact(40)
		for after, compacted := range map[int64]bool{1: true, 38: true, 39: false, first - 1: false} {
			f := r.follow(after, nil, nil)
			select {
			case err := <-f.result:
				if !compacted || err != rpctypes.ErrGRPCCompacted {
					t.Errorf("after %d: %v", after, err)
				}
			default:
				if compacted {
					t.Errorf("after %d: it goes on", after)
				}
			}
			f.end()
		}
		r.store.compact(51)
		f := r.follow(first-1, nil, nil) // all is in the ring: nobody needs the table
		if pages := f.got(); len(pages) != 1 || pages[0].Revision != 51 || pages[0].Commits[0].Revision != first {
			t.Errorf("sent from the ring: %+v", pages)
		}
		f.end()
	})
}

func TestFollowEndsWhenCompactionOvertakesItsReading(t *testing.T) {
	s := newStore()
	for range 10 {
		s.commit(put("a", "v"))
	}
	within(t, Config{Source: s}, func(r *rig) {
		s.block = make(chan struct{})
		f := r.follow(1, nil, nil)
		s.compact(5)
		close(s.block)
		if err := <-f.result; err != rpctypes.ErrGRPCCompacted {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestPokeHasEveryFollowerSendOnceMore(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		r.hub.Poke() // of no concern to those that come later
		f, g := r.follow(1, nil, nil), r.follow(1, nil, nil)
		f.want("@1")
		g.want("@1")
		r.hub.Poke()
		f.want("@1")
		g.want("@1")
		f.want()
		f.end()
		g.end()
		hold := make(chan struct{})
		f = r.follow(1, hold, nil)
		f.want("@1")
		r.hub.Poke()
		r.publish(put("a", "v"))
		r.hub.Poke()
		close(hold)
		f.want("2 @2", "@2") // two are answered by one call, after the commits
		r.create(prefix("a", 0))
		r.hub.Poke()
		r.publish(put("a", "v"))
		r.want("0@2 created", "0@3 3+a=v")
		f.end()
	})
}

func TestFollowReturnsTheErrorOfSend(t *testing.T) {
	s := newStore()
	s.commit(put("a", "v"))
	within(t, Config{Source: s}, func(r *rig) {
		broken := errors.New("broken")
		for _, after := range []int64{1, 2} {
			f := r.follow(after, nil, broken)
			if err := <-f.result; err != broken {
				t.Errorf("after %d: %v", after, err)
			}
			if n := len(f.got()); n != 1 {
				t.Errorf("after %d: %d pages were sent", after, n)
			}
		}
	})
}

func TestFollowReturnsWhatTheSourceFailsWith(t *testing.T) {
	s := newStore()
	s.commit(put("a", "v"))
	broken := errors.New("broken")
	s.historyErr = broken
	within(t, Config{Source: s}, func(r *rig) {
		f := r.follow(1, nil, nil)
		if err := <-f.result; !errors.Is(err, broken) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestCloseEndsFollowersAndWaitsForThem(t *testing.T) {
	for name, prepare := range map[string]func(*store){
		"that wait":                             func(*store) {},
		"that read history":                     func(s *store) { s.block = make(chan struct{}) },
		"that wait for history to be there":     func(s *store) { s.historyErr = ErrNotNow },
		"that were told of a broken connection": func(s *store) { s.historyErr, s.block = errors.New("broken"), make(chan struct{}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore()
			s.commit(put("a", "v"))
			within(t, Config{Source: s}, func(r *rig) {
				prepare(s) // the channels belong to the bubble
				f, began := r.follow(1, nil, nil), time.Now()
				r.hub.Close()
				if took := time.Since(began); took != 0 {
					t.Errorf("Close took %v", took)
				}
				r.hub.mu.Lock()
				if r.hub.running != 0 {
					t.Errorf("%d goroutines run when Close has returned", r.hub.running)
				}
				r.hub.mu.Unlock()
				if err := <-f.result; err != errClosed || status.Code(err) != codes.Unavailable {
					t.Errorf("ended with %v", err)
				}
				g := r.follow(1, nil, nil)
				if err := <-g.result; err != errClosed {
					t.Errorf("after Close: %v", err)
				}
			})
		})
	}
}

func TestCloseWaitsForAFollowerThatSends(t *testing.T) {
	within(t, Config{}, func(r *rig) {
		hold := make(chan struct{})
		f := r.follow(1, hold, nil)
		go func() {
			time.Sleep(time.Second)
			close(hold)
		}()
		began := time.Now()
		r.hub.Close()
		if took := time.Since(began); took != time.Second {
			t.Errorf("Close took %v, the follower a second", took)
		}
		if err := <-f.result; err != errClosed {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestFollowerWaitsWhileHistoryCannotBeRead(t *testing.T) {
	s := newStore()
	s.commit(put("a", "v"))
	within(t, Config{Source: s}, func(r *rig) {
		s.interrupt(fmt.Errorf("PostgreSQL is away: %w", ErrNotNow))
		f := r.follow(1, nil, nil)
		r.publish(put("a", "w"))
		time.Sleep(time.Minute)
		f.want()
		if n := s.asked(); n < 1000 || n > 4000 {
			t.Errorf("history was asked for %d times in a minute", n)
		}
		s.interrupt(nil)
		time.Sleep(retryPause)
		f.want("2 @2", "3 @3")
		s.interrupt(ErrNotNow)
		g := r.follow(1, nil, nil)
		began := time.Now()
		g.end()
		if err := <-g.result; !errors.Is(err, context.Canceled) || time.Since(began) != 0 {
			t.Errorf("ended with %v after %v", err, time.Since(began))
		}
		f.end()
	})
}

// Followers begin anywhere, are slow at times, and must be sent every commit once and in order, whatever is published meanwhile
// by one goroutine after the other.
func TestFollowersMissNothingWhileCommitsArePublished(t *testing.T) {
	const end, followers = 20_000, 4
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := newStore()
	for range 100 {
		s.commit(put("a", "v"))
	}
	h := NewHub(Config{Source: s, Revision: s.revision, RingBytes: 50_000})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reached := errors.New("reached")
	var done sync.WaitGroup
	for i := range followers {
		done.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			next, told := int64(2+random.IntN(100)), int64(0)
			err := h.Follow(ctx, next-1, func(p Followed) error {
				for _, c := range p.Commits {
					if c.Revision != next || c.Events[0].Kv.ModRevision != next || c.Events[0].ID != 3*(next-1) {
						t.Errorf("revision %d, row %d; want revision %d", c.Revision, c.Events[0].ID, next)
					}
					next++
				}
				if p.Revision != next-1 && len(p.Commits) > 0 || p.Revision < told {
					t.Errorf("told of %d after %d, was sent everything up to %d", p.Revision, told, next-1)
				}
				told = p.Revision
				if random.IntN(100) == 0 {
					time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
				}
				if next > end {
					return reached
				}
				return nil
			})
			if err != reached {
				t.Errorf("got to %d: %v", next-1, err)
			}
		})
	}
	turn := make(chan int64)
	for range 3 { // each publishes when it is its turn
		done.Go(func() {
			for i := range turn {
				if i <= end {
					h.Publish([]Commit{s.commit(put("a", fmt.Sprint(i)))}, i)
					if i%100 == 0 {
						h.Poke()
					}
					turn <- i + 1
					continue
				}
				close(turn)
				return
			}
		})
	}
	turn <- s.revision + 1
	done.Wait()
	h.Close()
	if h.running != 0 {
		t.Error("something is left in the hub")
	}
}
