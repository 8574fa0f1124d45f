package workload

import "sync"

// Life is one of the lives of a node's process.
type Life struct {
	Number int
	// Ending: the process is being ended.
	Ending bool
}

// Lives are those of the nodes' processes. Whoever ends a process says so before, and when a new one is started; a stream that ends otherwise was broken off.
// They may be used by several goroutines.
type Lives struct {
	mu  sync.Mutex // guards now
	now map[string]Life
}

// NewLives returns lives that are the nodes' first.
func NewLives() *Lives { return &Lives{now: map[string]Life{}} }

// Of is the node's present life.
func (l *Lives) Of(node string) Life {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now[node]
}

// End says that the node's process is going to be ended.
func (l *Lives) End(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now[node] = Life{l.now[node].Number, true}
}

// Begin says that the node's process has ended and is going to be started anew.
func (l *Lives) Begin(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now[node] = Life{l.now[node].Number + 1, false}
}
