package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kineshim.example/linearizability/history"
)

const (
	// afterError is the pause after an error, so that a node that is away is not asked without end.
	afterError = 20 * time.Millisecond
	// agoAtMost is how many revisions a read of the past goes back.
	agoAtMost = 50
)

// Habits are how a client behaves.
type Habits struct {
	// Nodes are asked at random; one that is named twice, twice as often.
	Nodes []string
	// Timeout is each request's own. A short one has requests on their way to a frozen node at any moment of its freeze.
	Timeout time.Duration
	// Think is the average pause between requests.
	Think time.Duration
	// Reads is how many of 100 requests read.
	Reads int
	// Pairs is how many of 100 writes write two keys at once.
	Pairs int
}

// Client makes one request after the other. It is used by one goroutine.
type Client struct {
	Habits
	rec   *Recorder
	keys  *Keys
	nodes map[string]pb.KVClient
	rnd   *rand.Rand
	name  string
	// number is that of the present sequence of requests, which ends with a request that was not answered.
	number int
	values int
	// view is the state of keys as the client last saw it. It may be old; comparisons are made with it.
	view map[string]history.KV
	// revision is the newest that the client has heard of.
	revision int64
}

// NewClient makes a client; its name is unique and begins its values.
func NewClient(name string, h Habits, rec *Recorder, keys *Keys, nodes map[string]pb.KVClient, rnd *rand.Rand) *Client {
	return &Client{Habits: h, rec: rec, keys: keys, nodes: nodes, rnd: rnd, name: name, number: rec.sequence(), view: map[string]history.KV{}}
}

// Run makes requests until ctx ends. The last is waited for.
func (c *Client) Run(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, c.step(context.WithoutCancel(ctx)))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// step makes one request and returns the pause to make before the next.
func (c *Client) step(ctx context.Context) time.Duration {
	o := c.choose()
	o.Client, o.Node = c.number, c.Nodes[c.rnd.IntN(len(c.Nodes))]
	looks := o.Kind.Writes() && o.Kind != history.PutPair && c.rnd.IntN(10) < 7
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	o.Outcome, o.Call = history.Unknown, c.rec.Now()
	err := call(ctx, c.nodes[o.Node], &o, looks)
	o.Return = c.rec.Now()
	if err != nil {
		o.Error, o.Outcome = err.Error(), outcomeOf(err)
		if odd := (malformedError{}); errors.As(err, &odd) {
			c.rec.odd(&o)
		}
		if !o.Kind.Writes() {
			o.Outcome = history.NotDone // whatever it read, nobody heard of it
		}
	}
	if o.Outcome == history.Unknown {
		o.Return = history.Forever
		c.number = c.rec.sequence()
	}
	c.learn(&o)
	c.rec.add(o)
	if err != nil {
		return afterError
	}
	return time.Duration(c.rnd.Float64() * 2 * float64(c.Think))
}

// learn brings the view up to date.
func (c *Client) learn(o *history.Op) {
	if o.Outcome != history.Done || o.Kind == history.GetAt || o.Kind == history.GetStale {
		return
	}
	c.revision = max(c.revision, o.Revision)
	for n, key := range o.Keys {
		switch {
		case o.Changed() && o.Kind.Puts():
			c.view[key] = history.KV{Value: o.Value, Mod: o.Revision, Create: c.view[key].Create, Version: c.view[key].Version + 1}
		case o.Changed():
			c.view[key] = history.KV{}
		case o.Looked:
			c.view[key] = o.Seen[n]
		}
	}
}

// choose makes a request.
func (c *Client) choose() history.Op {
	if c.rnd.IntN(100) < c.Reads {
		return c.chooseRead()
	}
	o := c.chooseWrite()
	if o.Kind.Puts() {
		c.values++
		o.Value = fmt.Sprintf("%s-%d", c.name, c.values)
	}
	return o
}

func (c *Client) chooseRead() history.Op {
	switch n := c.rnd.IntN(100); {
	case n < 65:
		return history.Op{Kind: history.Get, Keys: c.keys.Some(c.rnd, 1)}
	case n < 83:
		return history.Op{Kind: history.GetPair, Keys: c.keys.Some(c.rnd, 2)}
	case n < 93 || c.revision <= agoAtMost:
		return history.Op{Kind: history.GetStale, Keys: c.keys.Some(c.rnd, 1)}
	}
	return history.Op{Kind: history.GetAt, Keys: c.keys.Some(c.rnd, 1), At: c.revision - c.rnd.Int64N(agoAtMost)}
}

func (c *Client) chooseWrite() history.Op {
	one := c.keys.Some(c.rnd, 1)
	seen := c.view[one[0]]
	set := func(target history.Target, number int64) history.Op {
		return history.Op{Kind: history.Set, Keys: one, Compare: history.Compare{Target: target, Number: number}}
	}
	if c.rnd.IntN(100) < c.Pairs {
		return history.Op{Kind: history.PutPair, Keys: c.keys.Some(c.rnd, 2)}
	}
	n := c.rnd.IntN(100)
	switch {
	case n < 18:
		return history.Op{Kind: history.Put, Keys: one}
	case n < 25 || n < 80 && !seen.Exists():
		return set(history.Mod, 0)
	case n < 60:
		return set(history.Mod, seen.Mod)
	case n < 72:
		return history.Op{Kind: history.Set, Keys: one, Compare: history.Compare{Target: history.Value, Value: seen.Value}}
	case n < 76:
		return set(history.Version, seen.Version)
	case n < 80:
		return set(history.Create, seen.Create)
	case n < 92:
		return history.Op{Kind: history.Remove, Keys: one, Compare: history.Compare{Target: history.Mod, Number: seen.Mod}}
	}
	return history.Op{Kind: history.Delete, Keys: one}
}
