package raftwitness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

// watchLeases looks for two leases at once, until stop is called, which returns how often it has looked and what it has found.
func (c *testCluster) watchLeases() (stop func() (looks int, found string)) {
	ctx, cancel := context.WithCancel(context.Background())
	var looks int
	var found string
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; ctx.Err() == nil && found == ""; looks++ {
			found = c.twoLeases()
			time.Sleep(200 * time.Microsecond)
		}
	})
	return func() (int, string) { cancel(); wg.Wait(); return looks, found }
}

// twoLeases looks at each pair of voters three times: x, y, x. If x holds the lease of one term at both of its times, it held it
// in between, when y must not have had one.
func (c *testCluster) twoLeases() string {
	for _, x := range voters {
		for _, y := range voters {
			nx, ny := c.node(x), c.node(y)
			if x == y || nx == nil || ny == nil {
				continue
			}
			term := nx.barrierTerm.Load()
			if nx.LeaseLeft() == 0 {
				continue
			}
			y2 := ny.LeaseLeft()
			if x2 := nx.LeaseLeft(); y2 > 0 && x2 > 0 && nx.barrierTerm.Load() == term {
				return fmt.Sprintf("%s in term %d and %s in term %d hold leases of %v and %v", x, term, y, ny.barrierTerm.Load(), x2, y2)
			}
		}
	}
	return ""
}

// A history of cuts, heals, restarts and hand-overs, in which no two voters ever hold a lease at once, and after which the
// cluster serves again with every command that was confirmed.
func TestNoTwoLeasesInARandomHistory(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const promise = 120 * time.Millisecond
	c, _ := startCluster(t, promise)
	c.initialise()
	stop := c.watchLeases()
	proposed, handOvers, confirmed := 0, 0, map[string]bool{}
	length := 8 * time.Second
	if testing.Short() {
		length = 3 * time.Second
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		x, y := voters[r.IntN(3)], voters[r.IntN(3)]
		switch k := r.IntN(10); {
		case k < 3 && x != y:
			c.links.setCut(x, y, true)
		case k < 6:
			for _, p := range [][2]string{{"a", "b"}, {"a", "w"}, {"b", "w"}} {
				if r.IntN(3) > 0 {
					c.links.setCut(p[0], p[1], false)
				}
			}
		case k == 6:
			c.stop(x)
			c.start(x)
		default:
			ctx, cancel := context.WithTimeout(context.Background(), promise)
			if err := c.node(x).HandOver(ctx, y); err == nil {
				handOvers++
			}
			cancel()
		}
		if why := fmt.Sprint(proposed); proposed < maxInHistory {
			ok, tried, err := c.toggle(why, promise)
			if err != nil {
				t.Errorf("propose: %v", err)
			}
			if ok {
				confirmed[why] = true
			}
			if tried {
				proposed++
			}
		}
		time.Sleep(time.Duration(r.IntN(int(promise))))
	}
	for _, p := range [][2]string{{"a", "b"}, {"a", "w"}, {"b", "w"}} {
		c.links.setCut(p[0], p[1], false)
	}
	got := c.agree()
	looks, found := stop()
	if found != "" {
		t.Errorf("two leases at once (seed %d): %s", seed, found)
	}
	t.Logf("%d looks, %d commands proposed, %d confirmed, %d hand-overs, term %d", looks, proposed, len(confirmed), handOvers, c.node("w").Status().Term)
	for _, e := range got.History {
		delete(confirmed, e.Why)
	}
	if len(confirmed) > 0 {
		t.Errorf("commands that were confirmed are lost (seed %d): %v", seed, confirmed)
	}
}

// maxInHistory is below what the record's history holds.
const maxInHistory = 150

// toggle proposes, on a data node that has a lease if there is one, to pause or resume.
func (c *testCluster) toggle(why string, patience time.Duration) (ok, tried bool, err error) {
	for _, name := range []string{"a", "b"} {
		n := c.node(name)
		if n.LeaseLeft() == 0 {
			continue
		}
		rec, _ := n.Record()
		cmd := record.Command{Kind: record.Pause, Epoch: rec.Epoch, By: name, Why: why}
		if rec.Paused {
			cmd.Kind = record.Resume
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := n.Propose(ctx, cmd)
		cancel()
		if errors.Is(err, ErrNotLeader) || errors.Is(err, ErrUnknownOutcome) || errors.Is(err, record.ErrNotAllowed) {
			return false, true, nil
		}
		return err == nil, true, err
	}
	return false, false, nil
}
