package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"time"

	"kineshim/integration/cluster"
)

// phases in the order in which a new primary goes through them, as its log names them.
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

// phases are when the node was last in each phase before its gate first opened after the blow, in milliseconds after it. What did not happen is left out: a primary that
// goes on by itself has no election, for example.
func (r *logReader) phases(node string, blow time.Time) map[string]float64 {
	b, err := os.ReadFile(r.paths[node])
	if err != nil || int64(len(b)) < r.offsets[node] {
		return nil
	}
	out := map[string]float64{}
	sc := bufio.NewScanner(bytes.NewReader(b[r.offsets[node]:]))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var line struct {
			Time  time.Time `json:"time"`
			Phase string    `json:"phase"`
		}
		if json.Unmarshal(sc.Bytes(), &line) != nil || line.Phase == "" || line.Time.Before(blow) {
			continue
		}
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
