package policy

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteJSON writes anything for programs.
func WriteJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// Write writes the answer for people.
func (a Answer) Write(w io.Writer, q Question) error {
	var b strings.Builder
	for _, f := range a.Flows {
		port := ""
		if f.Port != 0 {
			port = fmt.Sprintf(" port %d", f.Port)
		}
		fmt.Fprintf(&b, "%s (%s) -> %s (%s) %s%s: %s\n", q.From, f.From, q.To, f.To, f.Protocol, port, word(f.Allowed))
		writeDirection(&b, "egress", f.Egress)
		writeDirection(&b, "ingress", f.Ingress)
	}
	for _, n := range a.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for _, p := range a.Problems {
		fmt.Fprintf(&b, "problem: %s\n", p)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func word(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "DENIED"
}

func writeDirection(b *strings.Builder, name string, d *Direction) {
	if d == nil {
		fmt.Fprintf(b, "  %-8s no Pod at this end, so no policy is asked\n", name)
		return
	}
	fmt.Fprintf(b, "  %-8s %-8s of %s: %s\n", name, word(d.Allowed), d.Pod, d.Why)
	for _, audit := range d.Audit {
		fmt.Fprintf(b, "  %-8s in audit mode, would have denied it: %s\n", "", audit)
	}
}
