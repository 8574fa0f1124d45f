package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"kineshim/integration/cluster"
	pb "kineshim/proto"
)

// shimctl runs it on the node's host, as an operator does who types the input, and notes what it prints.
func (t *Trial) shimctl(node, input string, args ...string) (string, error) {
	t.timeline.note("on %s: shimctl %s (typed: %q)", node, strings.Join(args, " "), input)
	if t.binaries.Shimctl == "" {
		return "", fmt.Errorf("there is no shimctl beside %s", t.binaries.Kineshim)
	}
	out, err := t.site.Run(node, input+"\n", t.binaries.Shimctl, append([]string{"--socket", t.SocketPath(node)}, args...)...)
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" {
			t.timeline.note("  shimctl: %s", line)
		}
	}
	return out, err
}

// metric is the value of a metric without labels of its own, as Prometheus reads it on the node's host.
func (t *Trial) metric(node, name string) float64 {
	ctx, cancel := context.WithTimeout(t.ctx, 10*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, t.HTTPURL(node)+"/metrics", nil)
	t.Must(err)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return t.site.Dial(ctx, node, address) }}}
	a, err := c.Do(q)
	t.Must(err)
	defer a.Body.Close()
	page, err := io.ReadAll(a.Body)
	t.Must(err)
	var value float64
	line := regexp.MustCompile(`(?m)^` + name + `(?:\{[^}]*\})? (.*)$`).FindSubmatch(page)
	if line == nil {
		t.Fatalf("%s has no metric %s", node, name)
	}
	_, err = fmt.Sscan(string(line[1]), &value)
	t.Must(err)
	return value
}

// refused sees to it that the operator's command changes nothing without the right word, or the right flag.
func (t *Trial) refused(node, input string, args ...string) {
	if out, err := t.shimctl(node, input, args...); err == nil {
		t.Fatalf("shimctl %s has done it: %s", strings.Join(args, " "), out)
	}
}

// Replace enrols a node anew with the operator's command, and starts it. Nothing but the node itself has to be repaired before.
func (t *Trial) Replace(node string) {
	file := filepath.Join(t.site.Dir(), node+"-enrolment.json")
	args := []string{"node", "replace", node}
	if node == cluster.Witness {
		args = []string{"witness", "replace"}
	}
	t.Until(node+" is enrolled anew", serveWithin, func(ctx context.Context) string {
		p := t.Primary(ctx)
		if p == "" {
			return "nobody serves"
		}
		if _, err := t.shimctl(p, "", append(args, "--out", file)...); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Heal(node+" joins with the new identity", func() error {
		if err := t.KillNode(node); err != nil {
			return err
		}
		if err := t.Join(t.ctx, node, file); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
		return t.Start(t.ctx, node)
	})
}

// says waits until the status, asked of one node, says so of another's health.
func (t *Trial) says(via, of string, words ...string) {
	t.Until(fmt.Sprintf("%s says of %s: %v", via, of, words), serveWithin, func(ctx context.Context) string {
		s, err := t.Status(ctx, via)
		if err != nil {
			return err.Error()
		}
		why := missing(s, of, words...)
		if why == "" {
			t.timeline.note("%s says of %s what it should", via, of)
		}
		return why
	})
}

// missing is what the status says of the node's health, if not all the words are in it; else "".
func missing(s *pb.StatusResponse, of string, words ...string) string {
	for _, n := range s.GetNodes() {
		if n.GetName() != of {
			continue
		}
		for _, w := range words {
			if !strings.Contains(n.GetHealth(), w) {
				return of + ": " + n.GetHealth()
			}
		}
		return ""
	}
	return "no such node"
}

// goOnAlone has the node go on alone with the operator's command, once it may. What is shown before must have the words in it, and nothing happens without
// the word that has to be typed, nor without --force if that is needed.
func (t *Trial) goOnAlone(node string, force bool, shown ...string) {
	command := []string{"serve", "--alone"}
	t.Until(node+" may go on alone", serveWithin, func(context.Context) string {
		out, err := t.shimctl(node, "", append(command, "--dry-run")...)
		for _, w := range shown {
			if err == nil && !strings.Contains(out, w) {
				err = fmt.Errorf("the operator is not told %q", w)
			}
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
	if force {
		t.refused(node, "serve alone", command...)
		command = append(command, "--force")
	}
	t.refused(node, "yes", command...)
	if p := t.Primary(t.ctx); p != "" {
		t.Fatalf("%s serves without the operator's word", p)
	}
	t.load.jumped.Store(true)
	_, err := t.shimctl(node, "serve alone", command...)
	t.Must(err)
	t.Serves(node)
	t.OnlyHasVIPs(node)
}

// fenced sees to it that those who were given up, the other data node and the witness, which together are a majority of what they know, answer nothing
// when they return, and that they take part again when they have been enrolled anew.
func (t *Trial) fenced(alone string) {
	old := cluster.Other(alone)
	t.PowerOn(t.W, old)
	t.says(old, old, "given this voter up")
	t.OnlyServes(alone, severalLeases)
	t.Until("the witness says that it was given up", serveWithin, func(context.Context) string {
		if t.lastLine(t.W, "this voter is void") == "" {
			return "it does not"
		}
		return ""
	})
	if st := t.State(old); st.GetVoid() == "" || st.GetGateOpen() || st.GetRole() == "primary" {
		t.Failf("%s was given up, and is %s: %q", old, st.GetRole(), st.GetVoid())
	}
	t.Replace(t.W)
	t.Replace(old)
	t.Armed()
	t.OnlyServes(alone, aWhile)
}
