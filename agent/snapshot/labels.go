package snapshot

import (
	"cmp"
	"fmt"
	"slices"
)

// Label is one label of an object.
type Label struct{ Key, Value string }

// Labels are an object's labels, sorted by key: a third of a map's memory, and there are as many
// as there are Pods. The zero value has none. Nobody writes to one.
type Labels []Label

// NewLabels sorts the labels of an API object.
func NewLabels(labels map[string]string) Labels {
	if len(labels) == 0 {
		return nil
	}
	out := make(Labels, 0, len(labels))
	for k, v := range labels {
		out = append(out, Label{k, v})
	}
	slices.SortFunc(out, func(a, b Label) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// Get finds a label by its key.
func (l Labels) Get(key string) (string, bool) {
	for i := range l {
		if l[i].Key == key {
			return l[i].Value, true
		}
	}
	return "", false
}

// Equal tells whether both are the same labels.
func (l Labels) Equal(o Labels) bool { return slices.Equal(l, o) }

// Operator relates a label's value to those of a requirement.
type Operator string

// The operators of a label selector.
const (
	OperatorIn           Operator = "In"
	OperatorNotIn        Operator = "NotIn"
	OperatorExists       Operator = "Exists"
	OperatorDoesNotExist Operator = "DoesNotExist"
)

// Requirement is one expression of a label selector.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string
}

// Selector is a label selector: all labels and all expressions must match, and without any it
// selects everything. Where an absent selector means something else, it is a nil pointer.
type Selector struct {
	MatchLabels      Labels
	MatchExpressions []Requirement
}

// Validate names the first requirement that nobody can judge. Such a selector matches nothing.
func (s Selector) Validate() error {
	for i, r := range s.MatchExpressions {
		if err := r.validate(); err != nil {
			return fmt.Errorf("matchExpressions[%d]: %w", i, err)
		}
	}
	return nil
}

func (r Requirement) validate() error {
	switch r.Operator {
	case OperatorIn, OperatorNotIn:
		if len(r.Values) == 0 {
			return fmt.Errorf("operator %s needs values", r.Operator)
		}
	case OperatorExists, OperatorDoesNotExist:
		if len(r.Values) > 0 {
			return fmt.Errorf("operator %s takes no values", r.Operator)
		}
	default:
		return fmt.Errorf("unknown operator %q", r.Operator)
	}
	if r.Key == "" {
		return fmt.Errorf("no key")
	}
	return nil
}

// Matches tells whether an object with these labels is selected. As in Kubernetes, NotIn and
// DoesNotExist match an object without the label.
func (s Selector) Matches(l Labels) bool {
	for _, want := range s.MatchLabels {
		if v, ok := l.Get(want.Key); !ok || v != want.Value {
			return false
		}
	}
	for _, r := range s.MatchExpressions {
		if !r.matches(l) {
			return false
		}
	}
	return true
}

func (r Requirement) matches(l Labels) bool {
	if r.validate() != nil {
		return false
	}
	v, ok := l.Get(r.Key)
	switch r.Operator {
	case OperatorIn:
		return ok && slices.Contains(r.Values, v)
	case OperatorNotIn:
		return !ok || !slices.Contains(r.Values, v)
	case OperatorExists:
		return ok
	case OperatorDoesNotExist:
		return !ok
	default:
		return false
	}
}

// Equal tells whether both select by the same words in the same order.
func (s Selector) Equal(o Selector) bool {
	return s.MatchLabels.Equal(o.MatchLabels) && slices.EqualFunc(s.MatchExpressions, o.MatchExpressions, func(a, b Requirement) bool {
		return a.Key == b.Key && a.Operator == b.Operator && slices.Equal(a.Values, b.Values)
	})
}
