package storm

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kineshim/integration/cluster"
	"kineshim/integration/lab"
)

const (
	// warmRounds is after how many bursts memory and disks are expected to have their size, and lastRounds over how many their size at the end is taken.
	warmRounds = 30
	lastRounds = 10
	// growthAtMost is by what factor either may be larger at the end than when warm, after slack bytes that a process or an empty database may take and give.
	growthAtMost = 1.5
	memorySlack  = 24 << 20
	// diskSlack is what WAL may take more or less: three copies of each segment of wal_keep_size, 64 MB, and some that are made ahead; a clone begins with few.
	diskSlack = 256 << 20
)

// sizes are samples of one size, one after each burst, in bytes.
type sizes []int64

// typical is the median.
func typical(s []int64) int64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// grown says whether the size at the end is larger than it may be; a short series proves nothing.
func (s sizes) grown(slack int64) (warm, last int64, grown bool) {
	if len(s) < warmRounds+lastRounds {
		return 0, 0, false
	}
	warm, last = typical(s[warmRounds-lastRounds:warmRounds]), typical(s[len(s)-lastRounds:])
	return warm, last, last > int64(float64(warm)*growthAtMost)+slack
}

// meter keeps the memory of the nodes' processes and the size of their data directories.
type meter struct {
	memory, disk map[string]sizes
}

func newMeter() *meter { return &meter{map[string]sizes{}, map[string]sizes{}} }

// sample measures an armed cluster.
func (m *meter) sample(r *lab.Rig) (string, error) {
	var out []string
	for _, node := range cluster.Nodes {
		memory, err := resident(r.PID(node))
		if err != nil {
			return "", err
		}
		disk, err := used(r.DataDir(node))
		if err != nil {
			return "", err
		}
		m.memory[node], m.disk[node] = append(m.memory[node], memory), append(m.disk[node], disk)
		out = append(out, fmt.Sprintf("%s %d/%d", node, memory>>20, disk>>20))
	}
	return "memory/disk in MB: " + strings.Join(out, ", "), nil
}

// grown is what has grown, in words.
func (m *meter) grown() []string {
	var out []string
	for _, node := range cluster.Nodes {
		if warm, last, grown := m.memory[node].grown(memorySlack); grown {
			out = append(out, fmt.Sprintf("the memory of %s went from %d to %d MB", node, warm>>20, last>>20))
		}
		if warm, last, grown := m.disk[node].grown(diskSlack); grown {
			out = append(out, fmt.Sprintf("the data directory of %s went from %d to %d MB", node, warm>>20, last>>20))
		}
	}
	return out
}

// resident is the resident set of a process, in bytes.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, ok := strings.Cut(string(b), "VmRSS:")
	var kb int64
	if _, err := fmt.Sscan(after, &kb); !ok || err != nil {
		return 0, fmt.Errorf("process %d has no resident set", pid)
	}
	return kb << 10, nil
}

// used is the size of all files below a directory, in bytes. Files may come and go meanwhile.
func used(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum, err
}

func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
