package oracle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"
)

const (
	// minimiseBound is how long a failure is cut down for.
	minimiseBound = 90 * time.Second
	// foundDir is where failures are kept, cut down, by test. They run again with the others of testdata.
	foundDir = "testdata/found"
)

// minimal cuts a sequence down to what still makes two fresh systems differ, and says how they do. Without a difference at
// the start it returns nil. fields: what is in the operations is cut down too.
func minimal(ops []Op, fresh func() (*pair, error), fields bool) ([]Op, error) {
	deadline := time.Now().Add(minimiseBound)
	differs := func(ops []Op) error {
		p, err := fresh()
		if err != nil {
			return nil // tells nothing
		}
		err = p.execute(ops)
		_ = p.close() // the next is another one
		var d *difference
		if errors.As(err, &d) {
			return err
		}
		return nil
	}
	why := differs(ops)
	if why == nil {
		return nil, nil
	}
	try := func(candidate []Op) bool {
		if time.Now().After(deadline) {
			return false
		}
		err := differs(candidate)
		if err != nil {
			ops, why = candidate, err
		}
		return err != nil
	}
	for size := (len(ops) + 1) / 2; size >= 1; size /= 2 {
		for at := 0; at < len(ops); {
			without := append(append([]Op{}, ops[:at]...), ops[min(at+size, len(ops)):]...)
			if !try(without) {
				at += size
			}
		}
	}
	for i := 0; fields && i < len(ops); i++ {
		simplify(ops[i], func(o Op) bool {
			candidate := append([]Op{}, ops...)
			candidate[i] = o
			return try(candidate)
		})
	}
	return ops, why
}

// simplify tries the operation with one thing less after the other, and keeps what try says yes to.
func simplify(o Op, try func(Op) bool) {
	for again := true; again; {
		again = false
		for _, smaller := range smaller(o) {
			if try(smaller) {
				o, again = smaller, true
				break
			}
		}
	}
}

// smaller is the operation with each of its fields emptied, each element of its lists left out or made smaller.
func smaller(o Op) []Op {
	var out []Op
	body := reflect.ValueOf(o)
	for i := range body.NumField() {
		f := body.Field(i)
		if f.IsNil() || f.Elem().Kind() != reflect.Struct {
			continue
		}
		for _, s := range smallerStruct(f.Elem()) {
			changed := reflect.New(body.Type()).Elem()
			changed.Set(body)
			pointer := reflect.New(f.Elem().Type())
			pointer.Elem().Set(s)
			changed.Field(i).Set(pointer)
			out = append(out, changed.Interface().(Op))
		}
	}
	return out
}

func smallerStruct(v reflect.Value) []reflect.Value {
	var out []reflect.Value
	change := func(i int, to reflect.Value) {
		changed := reflect.New(v.Type()).Elem()
		changed.Set(v)
		changed.Field(i).Set(to)
		out = append(out, changed)
	}
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		if f.Kind() != reflect.Slice {
			change(i, reflect.Zero(f.Type()))
			continue
		}
		for j := range f.Len() {
			without := reflect.AppendSlice(reflect.MakeSlice(f.Type(), 0, f.Len()), f.Slice(0, j))
			change(i, reflect.AppendSlice(without, f.Slice(j+1, f.Len())))
			if f.Index(j).Kind() != reflect.Struct {
				continue
			}
			for _, s := range smallerElement(f.Index(j)) {
				list := reflect.AppendSlice(reflect.MakeSlice(f.Type(), 0, f.Len()), f)
				list.Index(j).Set(s)
				change(i, list)
			}
		}
	}
	return out
}

func smallerElement(v reflect.Value) []reflect.Value {
	if o, ok := v.Interface().(Op); ok {
		var out []reflect.Value
		for _, s := range smaller(o) {
			out = append(out, reflect.ValueOf(s))
		}
		return out
	}
	return smallerStruct(v)
}

// keep writes a failure down where it runs again.
func keep(test string, ops []Op, why error) (string, error) {
	if err := os.MkdirAll(foundDir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(foundDir, strings.NewReplacer("/", "-", " ", "-").Replace(test)+".jsonl")
	comment := "# " + strings.ReplaceAll(strings.TrimSpace(why.Error()), "\n", "\n# ") + "\n"
	if err := os.WriteFile(path, []byte(comment+lines(ops)), 0o644); err != nil {
		return "", fmt.Errorf("keep a failure: %w", err)
	}
	return path, nil
}
