package lab

import (
	"os"
	"time"
)

// removeData removes the node's PostgreSQL data directory.
func (t *Trial) removeData(node string) error {
	return os.RemoveAll(t.pgdata(node))
}

func standbyDataLost(t *Trial) {
	began := time.Now()
	t.Blow("kill B and remove its data directory", func() error {
		if err := t.KillNode(t.B); err != nil {
			return err
		}
		return t.removeData(t.B)
	})
	t.solo(t.A)
	t.Heal("start B", func() error { return t.Start(t.ctx, t.B) })
	t.Armed()
	t.OnlyServes(t.A, time.Second)
	t.PauseAtMost(began, stallAtMost)
}

// primaryDataLost removes the files below a PostgreSQL that runs, as a mistaken command does.
func primaryDataLost(t *Trial) {
	began := time.Now()
	t.Blow("remove A's data directory while PostgreSQL runs", func() error { return t.removeData(t.A) })
	t.Serves(t.B)
	t.PauseAtMost(began, probedAtMost)
	t.Armed()
	t.OnlyServes(t.B, time.Second)
}
