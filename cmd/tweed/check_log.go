package main

import (
	"context"
	"log/slog"
	"strings"
)

// missedInterface begins what backend.Selector logs of a way that found
// nothing.
const missedInterface = "Could not find valid interface matching "

// captureHandler keeps what a package of the daemon logs. It is not safe for
// concurrent use.
type captureHandler struct{ records []slog.Record }

func (h *captureHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *captureHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *captureHandler) WithGroup(string) slog.Handler            { return h }

func (h *captureHandler) Handle(_ context.Context, r slog.Record) error {
	h.records = append(h.records, r)
	return nil
}

// texts returns the messages of a level that have the prefix, without
// attributes.
func (h *captureHandler) texts(level slog.Level, prefix string) (all []string) {
	for _, r := range h.records {
		if r.Level == level && strings.HasPrefix(r.Message, prefix) {
			all = append(all, r.Message)
		}
	}
	return all
}
