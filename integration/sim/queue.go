package sim

import "time"

// event is something that happens at a moment of true time, in a process or, with p nil, to the world.
type event struct {
	at   time.Duration
	seq  uint64
	p    *proc
	life int
	// from is 1 + the node from whose network the event arrives; 0: it is local.
	from int8
	fn   func()
}

// queue is a binary heap of events by time, then by order of scheduling.
type queue struct {
	heap []event
	seq  uint64
}

func (q *queue) less(i, j int) bool {
	a, b := &q.heap[i], &q.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.less(i, up) {
			break
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

func (q *queue) pop() event {
	e, n := q.heap[0], len(q.heap)-1
	q.heap[0] = q.heap[n]
	q.heap[n] = event{}
	q.heap = q.heap[:n]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if q.less(c, least) {
				least = c
			}
		}
		if least == i {
			return e
		}
		q.heap[i], q.heap[least] = q.heap[least], q.heap[i]
		i = least
	}
}

// push2 is push of what keeps its place among what happens at the same moment.
func (q *queue) push2(e event) {
	was, next := e.seq, q.seq
	q.seq = was - 1
	q.push(e)
	q.seq = next
}
