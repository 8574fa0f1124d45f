package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/lab/site"
	"kineshim/integration/ledger"
)

// rowsEnv names the rows to run, such as 19,53a, or "all". Empty: the quick selection.
const rowsEnv = "LAB_ROWS"

// chosen are the rows that this run of the tests is to try.
func chosen(t *testing.T) []*Row {
	t.Helper()
	var rows []*Row
	want := os.Getenv(rowsEnv)
	for i := range Rows {
		row := &Rows[i]
		named := slices.Contains(strings.Split(want, ","), row.Number)
		switch {
		case named && row.Run == nil:
			t.Fatalf("row %s is not tried here: %s", row.Number, row.Lacks)
		case named, row.Run != nil && (want == "all" || want == "" && row.Quick):
			rows = append(rows, row)
		}
	}
	return rows
}

// build makes the binaries, which are removed with the test.
func build(t *testing.T) cluster.Binaries {
	t.Helper()
	bin, err := os.MkdirTemp("/tmp", "kineshim-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	binaries, err := cluster.Build(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	return binaries
}

// TestLab runs rows of the failure matrix, by default the quick ones: TestLab/row19 and so on.
func TestLab(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	if err := site.Supported(); err != nil {
		t.Skipf("SKIPPED, NO ROW OF THE FAILURE MATRIX IS TRIED: %v", err)
	}
	binaries := build(t)
	var out bytes.Buffer
	l, err := New(Options{Binaries: binaries, Out: &out, KeepDir: filepath.Join(os.TempDir(), "kineshim-lab")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := site.Traces(os.Getpid()); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	for _, row := range chosen(t) {
		t.Run("row"+row.Number, func(t *testing.T) {
			out.Reset()
			r := l.Run(t.Context(), row)
			t.Log(out.String())
			for _, f := range r.Failures {
				t.Error(f)
			}
		})
	}
}

// A row of the matrix that nobody tries must say so, and why.
func TestEveryRowOfTheMatrixIsTriedOrSaysWhyNot(t *testing.T) {
	var want []string
	for n := 1; n <= 70; n++ {
		want = append(want, fmt.Sprint(n))
		if n == 20 {
			want = append(want, "20b")
		}
		if n == 53 {
			want = append(want, "53a", "53b", "53c")
		}
	}
	var got []string
	quick := 0
	for _, row := range Rows {
		got = append(got, row.Number)
		if row.Run == nil {
			t.Logf("row %s (%s) is not tried: %s", row.Number, row.Failure, row.Lacks)
			if row.Lacks == "" {
				t.Errorf("row %s has no implementation, and does not say why", row.Number)
			}
			if row.Quick {
				t.Errorf("row %s is quick, and cannot be run", row.Number)
			}
		}
		if row.Failure == "" || row.Right == "" || row.Serves == "" {
			t.Errorf("row %s lacks the matrix's words", row.Number)
		}
		if row.Quick {
			quick++
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows %v, the matrix has %v", got, want)
	}
	if quick == 0 {
		t.Error("no row is quick")
	}
}

// childEnv is set in the process that TestKilledLabLeavesNothingForLong starts and kills.
const childEnv = "KINESHIM_LAB_TEST_CHILD"

// A lab that is killed in the middle of a row leaves namespaces, mounts and perhaps processes; the next lab removes them.
func TestKilledLabLeavesNothingForLong(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	if err := site.Supported(); err != nil {
		t.Skipf("SKIPPED, NOTHING IS TESTED: %v", err)
	}
	bin := os.Getenv(childEnv)
	if bin != "" {
		beKilled(t, bin)
		return
	}
	binaries := build(t)
	child := exec.Command(os.Args[0], "-test.run=^TestKilledLabLeavesNothingForLong$")
	child.Env = append(os.Environ(), childEnv+"="+filepath.Dir(binaries.Kineshim))
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan() && lines.Text() != "armed"; {
		t.Log(lines.Text())
	}
	pid := child.Process.Pid
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	if left := site.Traces(pid); len(left) == 0 {
		t.Error("the killed lab has left nothing, so that nothing is tested")
	}
	if _, err := New(Options{KeepDir: t.TempDir()}); err != nil {
		t.Error(err)
	}
	if left := site.Traces(pid); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// beKilled is the killed lab's life.
func beKilled(t *testing.T, bin string) {
	binaries, err := cluster.BinariesIn(bin)
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Options{Binaries: binaries, Out: os.Stderr, KeepDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.armed(t.Context(), RowOf("1")); err != nil {
		t.Fatal(err)
	}
	fmt.Println("armed")
	time.Sleep(time.Minute)
}

func testRecorder(t *testing.T) *ledger.Recorder {
	t.Helper()
	r, err := ledger.NewRecorder("")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTimelineTellsWhatHappened(t *testing.T) {
	l := newTimeline()
	l.sights = []sight{{l.began, "a", 1, "paired"}, {l.began.Add(1500 * time.Millisecond), "", 1, "paired"}, {l.began.Add(2500 * time.Millisecond), "b", 2, "solo"}}
	l.events = []event{{l.began.Add(1200 * time.Millisecond), "BLOW kill a"}, {l.began.Add(2500 * time.Millisecond), "b: serves"}}
	var b bytes.Buffer
	l.render(&b, testRecorder(t), nil)
	var got []string
	for line := range strings.Lines(b.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"second primary epoch mode VIP clients: answered, errors, longest wait",
		"0 a 1 paired -",
		"1 - 1 paired -",
		"1.20 | BLOW kill a",
		"2 b 2 solo -",
		"2.50 | b: serves",
	}
	if !slices.Equal(got, want) {
		t.Errorf("told:\n%s", b.String())
	}
}
