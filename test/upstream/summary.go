package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// summary counts what came of a set's tests, by the reports that the suite writes.
type summary struct {
	passed  int
	failed  []string
	skipped []string // those that skipped themselves, with the reason
}

// report is as much of JUnit's format as is needed here.
type report struct {
	Suites []struct {
		Cases []struct {
			Name    string `xml:"name,attr"`
			Status  string `xml:"status,attr"`
			Skipped *struct {
				Message string `xml:"message,attr"`
			} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// summarize reads all reports in a folder.
func summarize(dir string) (summary, error) {
	var s summary
	files, err := filepath.Glob(filepath.Join(dir, "junit*.xml"))
	if err != nil || len(files) == 0 {
		return s, fmt.Errorf("read the report in %s: %d files: %w", dir, len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return s, fmt.Errorf("read the report: %w", err)
		}
		if err := s.add(content); err != nil {
			return s, fmt.Errorf("read the report %s: %w", file, err)
		}
	}
	return s, nil
}

// add counts the tests of a report. Those that the set did not choose are in it too, as skipped and
// without a reason; and so are the suite's own preparations, which are no tests and count when they fail.
func (s *summary) add(content []byte) error {
	var r report
	if err := xml.Unmarshal(content, &r); err != nil {
		return err
	}
	for _, suite := range r.Suites {
		for _, c := range suite.Cases {
			name, isTest := strings.CutPrefix(c.Name, "[It] ")
			reason, gave := "", false
			if c.Skipped != nil {
				_, reason, gave = strings.Cut(c.Skipped.Message, " - ")
			}
			switch {
			case c.Status == "passed" && isTest:
				s.passed++
			case c.Status == "skipped" && gave:
				s.skipped = append(s.skipped, name+": "+reason)
			case c.Status != "passed" && c.Status != "skipped":
				s.failed = append(s.failed, name+": "+c.Status)
			}
		}
	}
	slices.Sort(s.failed)
	slices.Sort(s.skipped)
	return nil
}

// lines are what a reader wants to see at the end.
func (s summary) lines(set string) []string {
	out := []string{fmt.Sprintf("%s: %d passed, %d failed, %d skipped themselves", set, s.passed, len(s.failed), len(s.skipped))}
	for _, name := range s.failed {
		out = append(out, "  failed: "+name)
	}
	for _, name := range s.skipped {
		out = append(out, "  skipped: "+name)
	}
	return out
}
