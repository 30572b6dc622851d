// Package verdict is the word that the machine gives and its host waits for.
package verdict

// Prefix marks the line that has the verdict, and Pass is the good one.
const (
	Prefix = "weftnet-verdict: "
	Pass   = "all test programs passed"
)
