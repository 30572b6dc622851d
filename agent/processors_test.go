//go:build linux

package main

import (
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestProcessors : all of them while anything works and a second after it, and one then.
func TestProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set []int
		p := &processors{all: 8, set: func(n int) { set = append(set, n) }}
		expect := func(what string, want ...int) {
			t.Helper()
			synctest.Wait()
			p.mu.Lock() // set is called with it
			defer p.mu.Unlock()
			if !slices.Equal(set, want) {
				t.Errorf("%s: set %v, want %v", what, set, want)
			}
			set = nil
		}
		first := p.work()
		expect("the first works", 8)
		second := p.work()
		first()
		first() // once more is no more
		<-time.After(2 * restAfter)
		expect("the second still works")
		second()
		<-time.After(restAfter / 2)
		third := p.work()
		expect("the third comes soon")
		third()
		<-time.After(restAfter + time.Millisecond)
		expect("nobody works", 1)
		p.work()()
		expect("the fourth", 8)
		<-time.After(restAfter + time.Millisecond)
		expect("nobody works again", 1)
	})
}

// TestProcessorsGiven : GOMAXPROCS is whoever's who sets it.
func TestProcessorsGiven(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	newProcessors(func(string) string { return "3" }).set(before + 1)
	if now := runtime.GOMAXPROCS(0); now != before {
		t.Errorf("%d processors, want %d", now, before)
	}
}
