package history

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// explainWithin bounds the search that finds out where the order of a key breaks, for the message and the picture.
const explainWithin = 20 * time.Second

// checkOrder searches an order of the requests on each key.
func (c *checker) checkOrder() error {
	byKey := c.resolve()
	keys := make([]string, 0, len(byKey))
	for key := range byKey {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var deadline time.Time
	if c.in.Timeout > 0 {
		deadline = time.Now().Add(c.in.Timeout)
	}
	for n, key := range keys {
		left := time.Duration(0)
		if !deadline.IsZero() {
			if left = time.Until(deadline); left <= 0 {
				c.violate(Undecided, "", "the search for an order did not end within %s: %d of %d keys were not looked at", c.in.Timeout, len(keys)-n, len(keys))
				return nil
			}
		}
		ops := operations(byKey[key])
		switch porcupine.CheckOperationsTimeout(model, ops, left) {
		case porcupine.Unknown:
			c.violate(Undecided, key, "the search for an order of %d requests did not end within %s", len(ops), c.in.Timeout)
		case porcupine.Illegal:
			if err := c.explain(key, ops); err != nil {
				return err
			}
		}
	}
	return nil
}

// operations are the steps as porcupine takes them. Steps that never returned get clients of their own, so that a client's do not overlap.
func operations(steps []interval) []porcupine.Operation {
	slices.SortFunc(steps, func(a, b interval) int { return cmp.Compare(a.call, b.call) })
	clients := 0
	for _, s := range steps {
		clients = max(clients, s.op.Client+1)
	}
	last := int64(0)
	for _, s := range steps {
		last = max(last, s.call)
		if s.ret != Forever {
			last = max(last, s.ret)
		}
	}
	out := make([]porcupine.Operation, len(steps))
	for i, s := range steps {
		client := s.op.Client
		if s.op.Outcome != Done {
			client, clients = clients, clients+1
		}
		// After everything else is as good as never, and shows better.
		out[i] = porcupine.Operation{ClientId: client, Input: s.step, Call: s.call, Return: min(s.ret, last+1)}
	}
	return out
}

// explain tells where the order of a key breaks, and draws it.
func (c *checker) explain(key string, ops []porcupine.Operation) error {
	_, info := porcupine.CheckOperationsVerbose(model, ops, explainWithin)
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, p := range partition {
			if len(p) > len(longest) {
				longest = p
			}
		}
	}
	placed := map[step]bool{}
	s := any(state{})
	for _, o := range longest {
		placed[o.Input.(step)] = true
		_, s = model.Step(s, o.Input, nil)
	}
	stuck, by := "", int64(math.MaxInt64)
	for _, o := range ops {
		if !placed[o.Input.(step)] && o.Return < by {
			stuck, by = model.DescribeOperation(o.Input, nil), o.Return
		}
	}
	text := fmt.Sprintf("%d of %d requests have an order, after which it is %s; then this fits nowhere:\n\t%s", len(longest), len(ops), model.DescribeState(s), stuck)
	if c.in.Visualise == "" || c.count[NotLinearizable] >= maxOfRule {
		c.violate(NotLinearizable, key, "%s", text)
		return nil
	}
	path := filepath.Join(c.in.Visualise, "linearizability-"+strings.ReplaceAll(strings.Trim(key, "/"), "/", "-")+".html")
	if err := os.MkdirAll(c.in.Visualise, 0o755); err != nil {
		return fmt.Errorf("draw the history of %s: %w", key, err)
	}
	if err := porcupine.VisualizePath(model, info, path); err != nil {
		return fmt.Errorf("draw the history of %s: %w", key, err)
	}
	c.violate(NotLinearizable, key, "%s\n\tdrawn in %s", text, path)
	return nil
}
