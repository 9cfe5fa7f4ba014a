#!/bin/sh
# Holds a checkpoint against a policy, and keeps the reports whatever comes out:
#
#   MODEL=model.safetensors DATA=pictures POLICY=policy.toml sh gate.sh
#
# With BASELINE=old/report.json a unit that matches now and did not match then fails the gate, too. Ends as milan-audit
# does: 0 passed, 1 violated, 2 bad usage or policy, 3 inconclusive, 4 the system failed. Only 0 may be published.
set -u
MODEL=${MODEL:?names the checkpoint}
DATA=${DATA:?names the pictures}
POLICY=${POLICY:-faces@2}
OUT=${OUT:-reports/gate}
BASELINE=${BASELINE:-}

# What an earlier run left must not pass for this one's.
rm -f "$OUT/report.json" "$OUT/milan.sarif" "$OUT/milan.junit.xml" "$OUT/milan.codequality.json" "$OUT/summary.md" "$OUT/report.html"
milan-audit --model "$MODEL" --data "$DATA" --policy "$POLICY" --out "$OUT" --locked --progress never \
  --output human \
  --output "sarif=$OUT/milan.sarif" \
  --output "junit=$OUT/milan.junit.xml" \
  --output "gitlab=$OUT/milan.codequality.json" \
  --output "md=$OUT/summary.md" \
  --output "html=$OUT/report.html"
code=$?

if [ "$code" -eq 0 ] && [ -n "$BASELINE" ]; then
  milan-audit diff "$BASELINE" "$OUT/report.json"
  code=$?
fi
exit "$code"
