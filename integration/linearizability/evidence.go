package linearizability

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	"kineshim.example/linearizability/history"
	"kineshim/integration/cluster"
)

// keepEvidence leaves the requests, the logs and what was found where somebody can look at it.
func (t *trial) keepEvidence(result Result) {
	err := t.session.Keep(result.Violations)
	for _, node := range cluster.Nodes {
		err = errors.Join(err, copyFile(filepath.Join(t.Out, node+".log"), t.c.LogPath(node)))
	}
	t.Log("requests, logs and pictures are kept in %s (%v)", t.Out, err)
}

// Keep leaves the requests, and what was found, in the session's directory.
func (t *Session) Keep(found []history.Violation) error {
	err := os.MkdirAll(t.Out, 0o755)
	write := func(name string, lines func(enc *json.Encoder) error) {
		f, e := os.Create(filepath.Join(t.Out, name))
		if e == nil {
			e = errors.Join(lines(json.NewEncoder(f)), f.Close())
		}
		err = errors.Join(err, e)
	}
	write("violations.jsonl", func(enc *json.Encoder) error { return each(enc, found) })
	write("requests.jsonl", func(enc *json.Encoder) error {
		ops := slices.Clone(t.rec.Ops())
		slices.SortFunc(ops, func(a, b history.Op) int { return int(min(max(a.Call-b.Call, -1), 1)) })
		return each(enc, ops)
	})
	return err
}

func each[T any](enc *json.Encoder, all []T) error {
	for _, one := range all {
		if err := enc.Encode(one); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
