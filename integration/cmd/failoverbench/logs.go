package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"time"

	"kineshim/integration/cluster"
)

// phases in the order in which a new primary goes through them, as its log names them. It may log others too.
var phases = []string{"detected", "elected", "promote_committed", "promoted", "engine_ready", "gate_open"}

// logReader reads what the nodes have logged since it was made.
type logReader struct {
	paths   map[string]string
	offsets map[string]int64
}

func newLogReader(c *cluster.Cluster) *logReader {
	r := &logReader{paths: map[string]string{}, offsets: map[string]int64{}}
	for _, node := range cluster.DataNodes {
		r.paths[node] = c.LogPath(node)
		if info, err := os.Stat(r.paths[node]); err == nil {
			r.offsets[node] = info.Size()
		}
	}
	return r
}

// logLine is what counts of a line of a log. Others have no phase.
type logLine struct {
	Time  time.Time `json:"time"`
	Phase string    `json:"phase"`
}

// lines are those with a phase that the node has logged from the instant on.
func (r *logReader) lines(node string, from time.Time) []logLine {
	b, err := os.ReadFile(r.paths[node])
	if err != nil || int64(len(b)) < r.offsets[node] {
		return nil
	}
	var out []logLine
	sc := bufio.NewScanner(bytes.NewReader(b[r.offsets[node]:]))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var line logLine
		if json.Unmarshal(sc.Bytes(), &line) == nil && line.Phase != "" && !line.Time.Before(from) {
			out = append(out, line)
		}
	}
	return out
}

// detected is how long after the blow a node first logged that it had noticed the loss; 0: none did.
func (r *logReader) detected(blow time.Time) time.Duration {
	var first time.Duration
	for node := range r.paths {
		for _, line := range r.lines(node, blow) {
			if after := line.Time.Sub(blow); line.Phase == "detected" && (first == 0 || after < first) {
				first = after
			}
		}
	}
	return first
}

// phases are when the node was last in each phase before its gate first opened after the blow, in milliseconds after it. What did not happen is left out: a primary that
// goes on by itself has no election, for example.
func (r *logReader) phases(node string, blow time.Time) map[string]float64 {
	out := map[string]float64{}
	for _, line := range r.lines(node, blow) {
		if _, seen := out[line.Phase]; seen && line.Phase == "detected" {
			continue // what is detected again was known
		}
		out[line.Phase] = milliseconds(line.Time.Sub(blow))
		if line.Phase == "gate_open" {
			break
		}
	}
	return out
}
