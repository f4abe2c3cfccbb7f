"""The style sheet of the report page: light, readable on paper, nothing loaded from outside."""

STYLE = """
:root { --ink: #1f2933; --soft: #5f6c7b; --line: #dfe5eb; --band: #f5f7fa; --brand: #17324d;
  --ok: #2f855a; --ng: #c53030; --review: #b7700a; --learning: #5d7390; --error: #5a4a78; }
* { box-sizing: border-box; }
body { margin: 0; background: #eef1f4; color: var(--ink);
  font: 15px/1.45 "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; background: #fff; padding: 0 36px 36px;
  box-shadow: 0 0 24px rgba(23, 50, 77, .08); }
header { margin: 0 -36px; padding: 26px 36px 22px; background: var(--brand); color: #fff; }
header .line { text-transform: uppercase; letter-spacing: .09em; font-size: 13px; opacity: .8; }
h1 { margin: 2px 0 12px; font-size: 29px; font-weight: 600; }
header dl { display: flex; flex-wrap: wrap; gap: 6px 34px; margin: 0; }
header dt { font-size: 12px; opacity: .75; }
header dd { margin: 0; font-variant-numeric: tabular-nums; }
h2 { margin: 34px 0 10px; font-size: 18px; font-weight: 600; color: var(--brand);
  border-bottom: 2px solid var(--line); padding-bottom: 5px; }
h3 { margin: 16px 0 2px; font-size: 15px; font-weight: 600; }
.banner { margin: 20px 0 0; padding: 11px 16px; border-left: 5px solid; border-radius: 3px; }
.banner.good { background: #edf7f1; border-color: var(--ok); }
.banner.bad { background: #fdecec; border-color: var(--ng); font-weight: 600; }
.banner.wait { background: #fff7e6; border-color: var(--review); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 18px; }
.tile { flex: 1 1 22%; min-width: 150px; background: var(--band);
  border: 1px solid var(--line); border-top: 4px solid #9aa8b7;
  border-radius: 4px; padding: 10px 14px 11px; }
.tile .name { font-size: 12px; color: var(--soft); text-transform: uppercase;
  letter-spacing: .05em; }
.tile .value { font-size: 25px; font-weight: 600; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.tile .more { font-size: 12.5px; color: var(--soft); }
.tile.ok { border-top-color: var(--ok); } .tile.ng { border-top-color: var(--ng); }
.tile.review { border-top-color: var(--review); }
.tile.error { border-top-color: var(--error); }
.tile.brand { border-top-color: var(--brand); }
.scroll { overflow-x: auto; margin-top: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { background: var(--band); font-weight: 600; font-size: 12.5px; color: var(--soft); }
th.n, td.n { text-align: right; white-space: nowrap; }
tr.sum td { font-weight: 600; border-top: 2px solid #b8c2cc; }
tr.bad td { background: #fdecec; color: var(--ng); font-weight: 600; }
.mark { font-weight: 700; color: var(--ok); } tr.bad .mark { color: var(--ng); }
.bar { display: inline-block; height: 11px; border-radius: 2px; background: #4a6fa5;
  vertical-align: -1px; min-width: 2px; }
.note { color: var(--soft); font-size: 13px; margin: 7px 0 10px; }
img.plot { width: 100%; height: auto; display: block; margin: 8px 0 0; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 28px; align-items: start; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 4px; overflow: hidden;
  break-inside: avoid; background: #fff; }
figure .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; background: #fff; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; display: block;
  background: #eef1f4; }
figure .none { aspect-ratio: 2; display: grid; place-items: center; color: var(--soft);
  background: var(--band); font-size: 13px; }
figcaption { padding: 8px 11px 10px; font-size: 12.5px; line-height: 1.45;
  overflow-wrap: anywhere; }
.badge { display: inline-block; color: #fff; font-weight: 700; font-size: 11px; padding: 1px 7px;
  border-radius: 3px; margin-right: 6px; letter-spacing: .03em; }
.badge.ng { background: var(--ng); } .badge.review { background: var(--review); }
footer { margin-top: 36px; padding-top: 12px; border-top: 1px solid var(--line);
  color: var(--soft); font-size: 12.5px; }
@media (max-width: 760px) { main { padding: 0 16px 20px; } header { margin: 0 -16px; }
  .two { grid-template-columns: 1fr; } }
@media print { body { background: #fff; font-size: 12px; } main { box-shadow: none; max-width: none;
  padding: 0; } header { margin: 0; } table, .tile, .banner, img.plot { break-inside: avoid; }
  h2, h3 { break-after: avoid; } * { -webkit-print-color-adjust: exact;
  print-color-adjust: exact; } @page { margin: 14mm; } }
"""
