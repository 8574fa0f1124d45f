package raftwitness

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// listening is a group of w whose departures the test takes.
func listening(t *testing.T) (ids map[string]Identity, w *group) {
	t.Helper()
	l := newTestListener(t, "w")
	ids = identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": l.Addr().String()})
	return ids, newTestGroup(t, ids["w"], l)
}

func peer(t *testing.T, id Identity, name string) Peer {
	t.Helper()
	p, ok := id.PeerByName(name)
	if !ok {
		t.Fatal("no peer", name)
	}
	return p
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestDepartReturnsWhenTheVoterActsOnIt(t *testing.T) {
	ids, w := listening(t)
	result := make(chan error, 1)
	go func() { result <- Depart(withTimeout(t, patience), nil, ids["a"], peer(t, ids["a"], "w"), 7) }()
	d := <-w.departures
	if d.server != ids["a"].ServerID || d.term != 7 {
		t.Errorf("%+v", d)
	}
	select {
	case err := <-result:
		t.Fatalf("returned before the voter acts on it: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(d.known)
	if err := <-result; err != nil {
		t.Error(err)
	}
	eventually(t, "the connection is closed", func() bool { return greeted(w.owner) == 0 })
	select {
	case <-w.conns:
		t.Error("the connection was given to Raft")
	default:
	}
}

func TestDepartureIsHeardFromVotersOfTheClusterOnly(t *testing.T) {
	ids, w := listening(t)
	strangers := identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": peer(t, ids["a"], "w").Raft})
	slow := ids["a"]
	slow.Promise *= 2
	forged := ids["a"]
	forged.ServerID = NewServerID("a")
	for _, tc := range []struct {
		name string
		id   Identity
		to   Peer
		want string
	}{
		{"another cluster", strangers["a"], peer(t, strangers["a"], "w"), "not known here"},
		{"another promise", slow, peer(t, ids["a"], "w"), "must be equal"},
		{"another incarnation of a", forged, peer(t, ids["a"], "w"), "not a voter"},
		{"w itself", ids["w"], peer(t, ids["w"], "w"), "hears you"},
	} {
		err := Depart(withTimeout(t, patience), nil, tc.id, tc.to, 7)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if err := Depart(t.Context(), nil, ids["a"], peer(t, ids["a"], "w"), 0); err == nil {
		t.Error("a departure from no term")
	}
	select {
	case d := <-w.departures:
		t.Errorf("the voter was told %+v", d)
	default:
	}
}

// The deathwatch knows the voters as they were when its process started. What it has to say concerns whoever votes now.
func TestDepartureIsToldToTheVoterThatWasEnrolledAnew(t *testing.T) {
	ids, w := listening(t)
	old := peer(t, ids["a"], "w")
	old.ServerID = NewServerID("w")
	result := make(chan error, 1)
	go func() { result <- Depart(withTimeout(t, patience), nil, ids["a"], old, 7) }()
	select {
	case d := <-w.departures:
		if d.server != ids["a"].ServerID || d.term != 7 {
			t.Errorf("told %+v", d)
		}
		close(d.known)
	case err := <-result:
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestDepartIsBounded(t *testing.T) {
	ids, w := listening(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	mute := peer(t, ids["a"], "w")
	mute.Raft = silent.Addr().String()
	for name, to := range map[string]Peer{"busy": peer(t, ids["a"], "w"), "mute": mute} {
		start := time.Now()
		if err := Depart(withTimeout(t, 100*time.Millisecond), nil, ids["a"], to, 7); err == nil {
			t.Errorf("%s: no error", name)
		}
		if d := time.Since(start); d > patience/2 {
			t.Errorf("%s: it took %v", name, d)
		}
	}
	w.Close()
	eventually(t, "nobody waits for the voter any more", func() bool { return greeted(w.owner) == 0 })
}

// A voter of an older version answers the hello as ever and waits for Raft's requests.
func TestVoterThatKnowsNothingOfDeparturesIsNotTakenForOneThatDoes(t *testing.T) {
	ids, _ := listening(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var h struct { // as it was
			Cluster, From, To string
			Promise           time.Duration
		}
		if readFrame(c, &h) == nil {
			writeFrame(c, struct {
				Error string `json:"error,omitempty"`
			}{})
		}
		var b [1]byte
		if n, err := c.Read(b[:]); n != 0 || err == nil {
			t.Error("it is sent more than a hello")
		}
	})
	old := peer(t, ids["a"], "w")
	old.Raft = ln.Addr().String()
	if err := Depart(withTimeout(t, patience), nil, ids["a"], old, 7); !errors.Is(err, errUnheard) {
		t.Error(err)
	}
}

// announce tells all the others, the witness first, that the named voter has departed.
func (c *testCluster) announce(name string, term uint64) {
	c.t.Helper()
	for _, to := range []string{"w", "a", "b"} {
		if to == name || c.node(to) == nil {
			continue
		}
		if err := Depart(withTimeout(c.t, patience), nil, c.ids[name], peer(c.t, c.ids[name], to), term); err != nil {
			c.t.Error(err)
		}
	}
}

func TestDepartedLeaderIsReplacedAtOnce(t *testing.T) {
	const promise = 2 * time.Second // much longer than an election takes
	c, _ := startCluster(t, promise)
	c.initialise()
	steadily(t, "until no voter is silent", promise, func() bool { return true })
	var took []time.Duration
	for range 3 {
		leader := c.leader()
		term := c.node(leader).Term()
		c.agree()
		c.stop(leader)
		since := time.Now()
		c.announce(leader, term)
		took = append(took, c.takeover(other(leader), since))
		c.start(leader)
		c.agree()
		steadily(t, "until no voter is silent", promise, func() bool { return true })
	}
	t.Logf("promise %v: from the news to the other data node's barrier: %v", promise, took)
	if d := slices.Min(took); d > promise*leasePerMille/1000 { // what waits for the promise waits each time; a busy machine once
		t.Errorf("%v: it has waited for the promise of %v", d, promise)
	}
}

// a leads, is started anew and leads again. Then somebody says that a's first life has ended.
func TestLateDepartureOfALeaderThatLeadsAgainChangesNothing(t *testing.T) {
	const promise = 600 * time.Millisecond
	c, _ := startCluster(t, promise)
	c.initialise()
	c.lead("a")
	first := c.node("a").Term()
	c.stop("a")
	c.start("a")
	c.lead("a")
	eventually(t, "both others follow a", func() bool {
		return c.node("b").Status().LeaderName == "a" && c.node("w").Status().LeaderName == "a"
	})
	term := c.node("a").Term()
	if term <= first {
		t.Fatalf("a leads in term %d, and led in %d before", term, first)
	}
	for range 5 {
		c.announce("a", term-1)
	}
	for _, name := range []string{"b", "w"} {
		p := c.node(name).voter.promised
		p.mu.Lock()
		if p.leader == "" {
			t.Errorf("%s takes its promise to a's next life for void", name)
		}
		p.mu.Unlock()
	}
	if now := c.node("b").Term(); now != term && c.node("a").LeaseLeft() > 0 && c.node("a").Term() == term {
		t.Errorf("b campaigns in term %d", now)
	}
}

func TestCampaignThatTheWitnessRefusesFallsBackToItsTimer(t *testing.T) {
	c, _ := startCluster(t, testPromise)
	c.initialise()
	c.lead("a")
	c.agree()
	term := c.node("a").Term()
	c.stop("a")
	since := time.Now()
	b := peer(t, c.ids["a"], "b")
	if err := Depart(withTimeout(t, patience), nil, c.ids["a"], b, term); err != nil { // the witness is not told
		t.Fatal(err)
	}
	t.Logf("promise %v: took over %v after the news", testPromise, c.takeover("b", since))
}

func TestLeadershipIsAnnouncedBeforeThereIsALease(t *testing.T) {
	c := newTestCluster(t, testPromise)
	var mu sync.Mutex
	told := map[string]uint64{}
	for _, name := range voters {
		n := c.nodes[name]
		n.cfg.OnLead = func(term uint64) {
			mu.Lock()
			defer mu.Unlock()
			if c := n.Node; c != nil && c.barrierTerm.Load() == term {
				t.Errorf("%s could have a lease in term %d before anybody was told", name, term)
			}
			told[name] = max(told[name], term)
		}
	}
	for _, name := range voters {
		c.start(name)
	}
	for range 3 {
		leader := c.leader()
		term := c.node(leader).barrierTerm.Load()
		mu.Lock()
		if told[leader] < term {
			t.Errorf("%s leads term %d, and told only of %d", leader, term, told[leader])
		}
		mu.Unlock()
		c.lead(other(leader))
	}
}
