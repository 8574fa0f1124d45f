package kinetable

import (
	"fmt"
	"testing"
	"time"

	"kineshim/integration/pgtest"
)

// BenchmarkWrite is on a server with fsync: batches one after the other, and four at once.
func BenchmarkWrite(b *testing.B) {
	server := pgtest.New(b, "fsync=on")
	for _, size := range []int{1, 2, 5, 50, 500} {
		for _, depth := range []int{1, 4} {
			b.Run(fmt.Sprintf("rows=%d/depth=%d", size, depth), func(b *testing.B) {
				name := fmt.Sprintf("b%d_%d_%d", size, depth, time.Now().UnixNano())
				if err := server.CreateDatabase(name); err != nil {
					b.Fatal(err)
				}
				s := openStore(b, server, name)
				_, meta := load(b, s)
				id := meta.LastID
				value := make([]byte, 300)
				batch := func() Batch {
					rows := make([]Row, size)
					for i := range rows {
						id++
						rows[i] = Row{ID: id, Revision: id, Key: fmt.Sprintf("/registry/pods/default/some-pod-with-a-name-%012d", id),
							Created: true, Version: 1, Value: value}
					}
					return Batch{Rows: rows}
				}
				sent := 0
				for b.Loop() {
					if err := s.Write(batch()); err != nil {
						b.Fatal(err)
					}
					if sent++; sent >= depth {
						if err := s.Done(); err != nil {
							b.Fatal(err)
						}
						sent--
					}
				}
				for ; sent > 0; sent-- {
					if err := s.Done(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(size*b.N)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}
